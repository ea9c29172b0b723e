// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "load.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} events SEC(".maps");

/* How many events there were, whether they found room or not. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} bench_counter SEC(".maps");

/* As vmlinux.h has it, but for the relocations. */
struct sys_enter {
	unsigned long long common;
	long id;
	unsigned long args[6];
};

static __always_inline int count_and_send(struct sys_enter *ctx)
{
	struct event *e;
	u32 zero = 0;
	u64 *n;

	if ((int)ctx->args[0] != BENCH_DIRFD)
		return 0;
	n = bpf_map_lookup_elem(&bench_counter, &zero);
	if (n)
		(*n)++;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return 0;
	e->pid = bpf_get_current_pid_tgid() >> 32;
#ifdef BENCH_CORE
	struct task_struct *task = (void *)bpf_get_current_task();
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
#else
	e->ppid = 0;
#endif
	e->flags = ctx->args[2];
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	if (bpf_probe_read_user_str(e->path, sizeof(e->path), (void *)ctx->args[1]) < 0)
		e->path[0] = 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int program(struct sys_enter *ctx)
{
	return count_and_send(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
