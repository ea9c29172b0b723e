// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef EVENTS_H
#define EVENTS_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
	__type(value, struct event);
} events SEC(".maps");

static __always_inline struct event *new_event(int ret)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (e) {
		e->pid = bpf_get_current_pid_tgid() >> 32;
		e->ret = ret;
		__builtin_memset(e->what, 0, sizeof(e->what));
	}
	return e;
}

static __always_inline int note(int ret, const char *what)
{
	struct event *e = new_event(ret);

	if (!e)
		return 0;
	bpf_probe_read_kernel_str(e->what, sizeof(e->what), what);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

#endif
