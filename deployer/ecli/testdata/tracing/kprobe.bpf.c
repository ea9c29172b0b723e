// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include "tracing.h"
#include "events.h"

SEC("kprobe/do_mkdirat")
int BPF_KPROBE(enter, int dfd, struct filename *name)
{
	return note(dfd, BPF_CORE_READ(name, name));
}

SEC("kretprobe/do_mkdirat")
int BPF_KRETPROBE(leave, long ret)
{
	return note(ret, "kretprobe");
}
