// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef PROFILE_H
#define PROFILE_H

#define MAX_DEPTH 127

typedef unsigned long long addresses_t[MAX_DEPTH];

struct profile_sample {
	unsigned int pid;
	unsigned int cpu_id;
	char comm[16];
	int kstack_sz;
	int ustack_sz;
	addresses_t kstack;
	addresses_t ustack;
};

#endif
