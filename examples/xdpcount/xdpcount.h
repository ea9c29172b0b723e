/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __XDPCOUNT_H
#define __XDPCOUNT_H

/* A packet that arrived; one in `every` is reported. */
struct packet {
	/* packets that this CPU has seen so far */
	unsigned long long count;
	unsigned int ifindex;
	unsigned int bytes;
	/* EtherType, such as 2048 (0x0800) for IPv4 */
	unsigned short ethertype;
};

#endif
