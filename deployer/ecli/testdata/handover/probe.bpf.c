// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

// One program in the section SECTION, for tests of handovers of what a compiler
// made. The edition is what tells two instances apart.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "probe.h"

#ifndef SECTION
#define SECTION "tp/syscalls/sys_enter_getpgid"
#endif

const volatile long long edition = 1;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} events SEC(".maps");

char _license[] SEC("license") = "Dual BSD/GPL";

SEC(SECTION)
int probe(void *ctx)
{
	struct record r = {.n = edition};

	bpf_ringbuf_output(&events, &r, sizeof(r), 0);
	return 0;
}
