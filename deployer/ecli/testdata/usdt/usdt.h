// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef USDT_H
#define USDT_H

struct event {
	int probe; // the number of its program
	int count; // of arguments
	long args[6];
};

#endif
