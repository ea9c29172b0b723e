/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __OPENSNOOP_H
#define __OPENSNOOP_H

#define TASK_COMM_LEN 16
#define NAME_MAX 255

/* One call of openat(2) or openat2(2) that came back; libc opens files by them. */
struct event {
	int pid;
	unsigned int uid;
	/* the file descriptor, or a negative errno */
	int ret;
	int flags;
	char comm[TASK_COMM_LEN];
	char fname[NAME_MAX];
};

#endif
