/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __BPFGUARD_H
#define __BPFGUARD_H

#define COMM_LEN 16
#define PROGRAM_NAME_LEN 16

/* An eBPF program that somebody wants to load. */
struct program_load {
	int pid;
	unsigned int uid;
	char comm[COMM_LEN];
	/* true where it was refused */
	bool denied;
	char name[PROGRAM_NAME_LEN];
	enum bpf_prog_type type;
};

#endif
