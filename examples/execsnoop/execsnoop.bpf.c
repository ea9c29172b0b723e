// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "execsnoop.h"

/// @description only this user; -1 is everybody
/// @cmdarg {"default": -1, "short": "u", "long": "uid"}
const volatile int target_uid = -1;

/// @description only processes that ended with a signal or a code other than 0
/// @cmdarg {"long": "failed"}
const volatile bool failed_only = false;

/* When processes began to run their program, by pid. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, u32);
	__type(value, u64);
} started SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} events SEC(".maps");

/* Fills in what both events have, of the process that runs. */
static __always_inline struct process_event *new_event(struct task_struct *task)
{
	struct process_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return NULL;
	e->pid = task->tgid;
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
	e->uid = bpf_get_current_uid_gid();
	e->code = 0;
	e->signal = 0;
	e->ms = 0;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	e->args[0] = 0;
	return e;
}

/* The arguments lie one behind the other, each with a 0 at its end. */
static __always_inline void put_args(char *to, struct task_struct *task)
{
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	unsigned long len = BPF_CORE_READ(task, mm, arg_end) - start;
	int i;

	if (len > ARGS_LEN)
		len = ARGS_LEN;
	if (!len || bpf_probe_read_user(to, len, (void *)start))
		return;
	for (i = 0; i < ARGS_LEN - 1 && i + 1 < len; i++)
		if (!to[i])
			to[i] = ' ';
	to[i] = 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(report_exec, struct task_struct *task)
{
	u32 pid = task->tgid;
	u64 now = bpf_ktime_get_ns();
	struct process_event *e;

	if (target_uid >= 0 && (u32)bpf_get_current_uid_gid() != (u32)target_uid)
		return 0;
	bpf_map_update_elem(&started, &pid, &now, BPF_ANY);
	if (failed_only)
		return 0;
	e = new_event(task);
	if (!e)
		return 0;
	__builtin_memcpy(e->event, "exec", EVENT_LEN);
	put_args(e->args, task);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* It is called for each thread; live counts those that are left. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(report_exit, struct task_struct *task)
{
	u64 *found, begin, now = bpf_ktime_get_ns();
	int status = task->exit_code;
	u32 pid = task->tgid;
	struct process_event *e;

	if (BPF_CORE_READ(task, signal, live.counter))
		return 0;
	found = bpf_map_lookup_elem(&started, &pid);
	if (!found)
		return 0;
	begin = *found;
	/* Two threads that end at once both see 0; one of them deletes. */
	if (bpf_map_delete_elem(&started, &pid))
		return 0;
	if (failed_only && !status)
		return 0;
	e = new_event(task);
	if (!e)
		return 0;
	__builtin_memcpy(e->event, "exit", EVENT_LEN);
	e->code = status >> 8 & 0xff;
	e->signal = status & 0x7f;
	e->ms = (now - begin) / 1000000;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/// @brief Shows programs that are started, and how they ended.
/// @details MS is the time from exec to exit. A process that was there before makes no line.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
