// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef PROBE_H
#define PROBE_H

// The edition of the program that saw an event.
struct record {
	long long n;
};

#endif
