// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "profile.h"

/// @description only this process; 0 is every one
/// @cmdarg {"default": 0, "short": "p", "long": "pid"}
const volatile int target_pid = 0;

/// @description also CPUs that have nothing to do
/// @cmdarg {"long": "idle"}
const volatile bool show_idle = false;

/// @intepreter {"stack_trace": {}}
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} samples SEC(".maps");

SEC("perf_event")
int take_sample(struct bpf_perf_event_data *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct cpu_sample *s;

	if (target_pid ? pid != (u32)target_pid : !pid && !show_idle)
		return 0;
	s = bpf_ringbuf_reserve(&samples, sizeof(*s), 0);
	if (!s)
		return 0;
	s->pid = pid;
	s->cpu_id = bpf_get_smp_processor_id();
	bpf_get_current_comm(s->comm, sizeof(s->comm));
	/* What is not there has a negative length. */
	s->kstack_sz = bpf_get_stack(ctx, s->kstack, sizeof(s->kstack), 0);
	s->ustack_sz = bpf_get_stack(ctx, s->ustack, sizeof(s->ustack), BPF_F_USER_STACK);
	bpf_ringbuf_submit(s, 0);
	return 0;
}

/// @brief Shows what the CPUs are doing, by stacks of the kernel and of processes.
/// @details Each CPU is looked at once a second, if --attach does not say otherwise.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
