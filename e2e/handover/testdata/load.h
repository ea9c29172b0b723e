// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#ifndef LOAD_H
#define LOAD_H

// What a numbered event left: the number, the hook that saw it, the thread that
// made it, and the version of the program.
struct record {
	unsigned int seq;
	unsigned short hook;
	unsigned char thread;
	unsigned char version;
};

#endif
