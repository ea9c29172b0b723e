/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __TCPSTATES_H
#define __TCPSTATES_H

/* An IPv6 address with a dotted end, and its 0. */
#define ADDRESS_LEN 46
#define STATE_LEN 12
#define COMM_LEN 16

/* A TCP connection that went from one state to another. */
struct tcp_change {
	/* who called connect(2) or listen(2); 0 where the other side asked */
	int pid;
	char comm[COMM_LEN];
	/* milliseconds in the old state; 0 where its begin was not seen */
	unsigned long long ms;
	char old_state[STATE_LEN];
	char new_state[STATE_LEN];
	/* local and remote, as text, so that they read as addresses everywhere */
	char laddr[ADDRESS_LEN];
	unsigned short lport;
	char raddr[ADDRESS_LEN];
	unsigned short rport;
};

#endif
