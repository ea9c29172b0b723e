// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include "tracing.h"
#include "events.h"

SEC("ksyscall/mkdirat")
int BPF_KSYSCALL(enter, int dfd, const char *path, int mode)
{
	struct event *e = new_event(mode);

	if (!e)
		return 0;
	bpf_probe_read_user_str(e->what, sizeof(e->what), path);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("kretsyscall/mkdirat")
int BPF_KRETPROBE(leave, long ret)
{
	return note(ret, "kretsyscall");
}
