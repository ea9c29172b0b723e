// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/usdt.bpf.h>
#include "usdt.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

static __always_inline int send(struct pt_regs *ctx, int probe)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return 0;
	e->probe = probe;
	e->count = bpf_usdt_arg_cnt(ctx);
	for (int i = 0; i < 6; i++) {
		long value;

		// A value that there is not is 0.
		bpf_usdt_arg(ctx, i, &value);
		e->args[i] = value;
	}
	bpf_ringbuf_submit(e, 0);
	return 0;
}

#define PROGRAM(name, number)                      \
	SEC("usdt/target:ebpm:" #name)             \
	int on_##name(struct pt_regs *ctx)            \
	{                                          \
		return send(ctx, number);          \
	}

PROGRAM(registers, 1)
PROGRAM(wide, 2)
PROGRAM(constants, 3)
PROGRAM(memory, 4)
PROGRAM(scaled, 5)
PROGRAM(none, 6)
PROGRAM(guarded, 8)

SEC("usdt/target:ebpm:twice")
int BPF_USDT(on_twice, int n, long m)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->probe = 7;
	e->count = bpf_usdt_arg_cnt(ctx);
	e->args[0] = n;
	e->args[1] = m;
	bpf_ringbuf_submit(e, 0);
	return 0;
}
