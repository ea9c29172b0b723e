// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

// Programs that see numbered events, for tests of handovers. getpriority(100 + t, n)
// is event n of thread t.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "load.h"

#ifndef VERSION
#define VERSION 1
#endif
#define GETPRIORITY 140 // x86-64
#ifndef FIRST_THREAD
#define FIRST_THREAD 100
#endif
#ifndef RECORDS
#define RECORDS (8 << 20) // bytes
#endif

struct place {
	__u32 hook;
	__u32 thread;
};

// What a hook saw of a thread, whatever the version.
struct seen {
	__u64 last;
	__u64 count;
	__u64 gaps;
	__u64 again;
#ifdef LAYOUT
	__u64 more;
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct place);
	__type(value, struct seen);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RECORDS);
} records SEC(".maps");

static __always_inline void see(__u32 hook, __u64 which, __u64 n)
{
	struct place at = {.hook = hook, .thread = which - FIRST_THREAD};
	struct seen first = {.last = n, .count = 1}, *s;
	struct record *r;

	if (which < FIRST_THREAD || which >= FIRST_THREAD + 8)
		return;
	s = bpf_map_lookup_elem(&seen, &at);
	if (!s) {
		bpf_map_update_elem(&seen, &at, &first, BPF_ANY);
	} else {
		// One thread makes the events of a place, one after the other.
		if (n <= s->last)
			s->again++;
		else if (n != s->last + 1)
			s->gaps += n - s->last - 1;
		s->last = n;
		s->count++;
	}
	r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);
	if (!r)
		return;
	r->seq = n;
	r->hook = hook;
	r->thread = at.thread;
	r->version = VERSION;
	bpf_ringbuf_submit(r, 0);
}

SEC("tracepoint/syscalls/sys_enter_getpriority")
int by_tracepoint(struct trace_event_raw_sys_enter *ctx)
{
	see(0, ctx->args[0], ctx->args[1]);
	return 0;
}

SEC("raw_tp/sys_enter")
int by_raw_tp(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];

	if (ctx->args[1] == GETPRIORITY)
		see(1, PT_REGS_PARM1_CORE_SYSCALL(regs), PT_REGS_PARM2_CORE_SYSCALL(regs));
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(by_tp_btf, struct pt_regs *regs, long id)
{
	if (id == GETPRIORITY)
		see(2, PT_REGS_PARM1_CORE_SYSCALL(regs), PT_REGS_PARM2_CORE_SYSCALL(regs));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
