// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include "tracing.h"
#include "events.h"

#define EPERM 1

SEC("lsm/path_mkdir")
int BPF_PROG(may_mkdir, const struct path *dir, struct dentry *dentry, umode_t mode, int ret)
{
	const unsigned char *name = dentry->d_name.name;
	char word[12] = {};

	bpf_probe_read_kernel_str(word, sizeof(word), name);
	note(ret, (const char *)name);
	if (ret == 0 && bpf_strncmp(word, 11, "ebpm-denied") == 0)
		return -EPERM;
	return ret;
}

SEC("lsm_cgroup/socket_create")
int BPF_PROG(may_create, int family, int type, int protocol, int kern)
{
	note(family, "lsm_cgroup");
	return 1; // yes
}
