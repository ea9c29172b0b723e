/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __XDPSYN_H
#define __XDPSYN_H

/* A TCP SYN over IPv4 that arrived: somebody asks for a connection. */
struct syn {
	unsigned int ifindex;
	/* dotted, so that it reads as an address everywhere */
	char saddr[16];
	char daddr[16];
	unsigned short sport;
	unsigned short dport;
};

#endif
