/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef LOAD_H
#define LOAD_H

/* No folder has this number: openat fails once it has read the path. */
#define BENCH_DIRFD -7771

struct event {
	int pid;
	int ppid;
	int flags;
	char comm[16];
	char path[44];
};

#endif
