// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "bpfguard.h"

#define EPERM 1

/// @description only this user; -1 is everybody
/// @cmdarg {"default": -1, "short": "u", "long": "uid"}
const volatile int target_uid = -1;

/// @description refuse them, as long as this runs
/// @cmdarg {"long": "deny"}
const volatile bool deny = false;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} loads SEC(".maps");

/* The first hook that refuses ends the row, so this is asked only where those
 * before it said yes. attr is the kernel's copy of what bpf(2) was given. */
SEC("lsm/bpf")
int BPF_PROG(check_bpf, int cmd, union bpf_attr *attr)
{
	unsigned int uid = bpf_get_current_uid_gid();
	struct program_load *l;

	if (cmd != BPF_PROG_LOAD || (target_uid >= 0 && uid != (unsigned int)target_uid))
		return 0;
	/* What finds no room is refused all the same. */
	l = bpf_ringbuf_reserve(&loads, sizeof(*l), 0);
	if (l) {
		l->pid = bpf_get_current_pid_tgid() >> 32;
		l->uid = uid;
		bpf_get_current_comm(l->comm, sizeof(l->comm));
		l->denied = deny;
		l->type = attr->prog_type;
		if (bpf_probe_read_kernel_str(l->name, sizeof(l->name), attr->prog_name) < 0)
			l->name[0] = 0;
		bpf_ringbuf_submit(l, 0);
	}
	if (!deny)
		return 0;
	/* Else clang negates deny as a byte, and since Linux 6.12 the verifier
	 * wants to see that the result is an errno. */
	barrier();
	return -EPERM;
}

/// @brief Shows eBPF programs that somebody loads, and on request refuses them.
/// @details It changes nothing without --deny. With it nobody can load a program until it ends.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
