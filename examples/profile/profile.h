/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __PROFILE_H
#define __PROFILE_H

#define COMM_LEN 16
/* The kernel takes no more by default (kernel.perf_event_max_stack). */
#define DEPTH 127

typedef unsigned long long addresses_t[DEPTH];

/* What a CPU was doing at one moment. vmlinux.h has a struct sample already. */
struct cpu_sample {
	unsigned int pid;
	unsigned int cpu_id;
	char comm[COMM_LEN];
	/* in bytes */
	int kstack_sz;
	int ustack_sz;
	addresses_t kstack;
	addresses_t ustack;
};

#endif
