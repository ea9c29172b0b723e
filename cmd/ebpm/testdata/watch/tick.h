// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef TICK_H
#define TICK_H

struct event {
	unsigned long long count;
};

#define FILL(e, n) ((e)->count = (n))

#endif
