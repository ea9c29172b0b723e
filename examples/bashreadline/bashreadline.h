/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __BASHREADLINE_H
#define __BASHREADLINE_H

/* A line that somebody typed into an interactive bash. */
struct typed_line {
	int pid;
	unsigned int uid;
	char text[160];
};

#endif
