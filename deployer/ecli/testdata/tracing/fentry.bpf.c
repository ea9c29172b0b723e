// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include "tracing.h"
#include "events.h"

SEC("fentry/do_mkdirat")
int BPF_PROG(enter, int dfd, struct filename *name, umode_t mode)
{
	return note(mode, name->name);
}

SEC("fexit/do_mkdirat")
int BPF_PROG(leave, int dfd, struct filename *name, umode_t mode, long ret)
{
	return note(ret, "fexit");
}
