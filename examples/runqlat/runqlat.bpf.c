// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "runqlat.h"

#define TASK_RUNNING 0

/// @description only this process; 0 is every one
/// @cmdarg {"default": 0, "short": "p", "long": "pid"}
const volatile int target_pid = 0;

/// @description a histogram of each process, by its pid, instead of one of all
/// @cmdarg {"long": "by-process"}
const volatile bool by_process = false;

/* When threads began to wait, by thread id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, u32);
	__type(value, u64);
} waiting SEC(".maps");

/// @sample {"interval": 1000, "type": "log2_hist", "unit": "usecs"}
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u32);
	__type(value, struct waits);
} histograms SEC(".maps");

static const struct waits no_waits;

/* Until Linux 5.14 a task's state had another name. */
struct task_struct___before_5_14 {
	volatile long state;
} __attribute__((preserve_access_index));

static __always_inline bool can_run(struct task_struct *task)
{
	struct task_struct___before_5_14 *old = (void *)task;

	if (bpf_core_field_exists(task->__state))
		return BPF_CORE_READ(task, __state) == TASK_RUNNING;
	return BPF_CORE_READ(old, state) == TASK_RUNNING;
}

static __always_inline void begin(struct task_struct *task)
{
	u64 now = bpf_ktime_get_ns();
	u32 tid = task->pid;

	/* The idle threads have 0. */
	if (!tid || (target_pid && task->tgid != target_pid))
		return;
	bpf_map_update_elem(&waiting, &tid, &now, BPF_ANY);
}

/* The logarithm to the base 2, rounded down; that of 0 is 0. */
static __always_inline u32 log2(u64 n)
{
	u32 log = 0;
	int shift;

	for (shift = 32; shift > 0; shift /= 2)
		if (n >> shift) {
			n >>= shift;
			log += shift;
		}
	return log;
}

static __always_inline void end(struct task_struct *task)
{
	u64 *since, now = bpf_ktime_get_ns();
	u32 tid = task->pid, key = 0, slot;
	struct waits *w;

	since = bpf_map_lookup_elem(&waiting, &tid);
	if (!since)
		return;
	slot = now > *since ? log2((now - *since) / 1000) : 0;
	bpf_map_delete_elem(&waiting, &tid);
	if (by_process)
		key = task->tgid;
	w = bpf_map_lookup_elem(&histograms, &key);
	if (!w) {
		bpf_map_update_elem(&histograms, &key, &no_waits, BPF_NOEXIST);
		w = bpf_map_lookup_elem(&histograms, &key);
		if (!w)
			return;
	}
	if (by_process)
		BPF_CORE_READ_STR_INTO(&w->comm, task, group_leader, comm);
	if (slot >= SLOTS)
		slot = SLOTS - 1;
	__sync_fetch_and_add(&w->slots[slot], 1);
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(wakes, struct task_struct *task)
{
	begin(task);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(is_born, struct task_struct *task)
{
	begin(task);
	return 0;
}

/* A thread that could go on waits from here, too. */
SEC("tp_btf/sched_switch")
int BPF_PROG(switches, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	if (can_run(prev))
		begin(prev);
	end(next);
	return 0;
}

/// @brief Shows how long threads that could run waited for a CPU.
/// @details The histogram counts from the start on, and is printed every second.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
