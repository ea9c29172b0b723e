// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "bashreadline.h"

/// @description only this user
/// @cmdarg {"default": -1, "short": "u", "long": "uid"}
const volatile int target_uid = -1;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} lines SEC(".maps");

/* readline returns what was typed, or NULL at the end of the input. */
SEC("uretprobe//bin/bash:readline")
int BPF_URETPROBE(readline_returns, const char *typed)
{
	unsigned int uid = bpf_get_current_uid_gid();
	struct typed_line *l;

	if (!typed || (target_uid >= 0 && uid != (unsigned int)target_uid))
		return 0;
	l = bpf_ringbuf_reserve(&lines, sizeof(*l), 0);
	if (!l)
		return 0;
	l->pid = bpf_get_current_pid_tgid() >> 32;
	l->uid = uid;
	if (bpf_probe_read_user_str(l->text, sizeof(l->text), typed) < 0)
		l->text[0] = 0;
	bpf_ringbuf_submit(l, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
