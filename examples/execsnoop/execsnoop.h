/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __EXECSNOOP_H
#define __EXECSNOOP_H

#define COMM_LEN 16
#define EVENT_LEN 5
#define ARGS_LEN 256

/* A process that began to run a program, or one of these that ended. */
struct process_event {
	/* "exec" or "exit" */
	char event[EVENT_LEN];
	int pid;
	int ppid;
	unsigned int uid;
	/* of exit: what the process returned, or the signal that ended it */
	int code;
	int signal;
	/* of exit: milliseconds since exec */
	unsigned long long ms;
	char comm[COMM_LEN];
	/* of exec: the program and its arguments, as far as there is room */
	char args[ARGS_LEN];
};

#endif
