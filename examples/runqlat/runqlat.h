/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __RUNQLAT_H
#define __RUNQLAT_H

#define COMM_LEN 16
/* The last one counts what took longer than half a minute, too. */
#define SLOTS 26

/* How long threads that could run waited for a CPU. */
struct waits {
	char comm[COMM_LEN];
	unsigned int slots[SLOTS];
};

#endif
