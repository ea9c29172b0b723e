// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef TRACING_H
#define TRACING_H

struct event {
	int pid;
	int ret;
	char what[16];
};

#endif
