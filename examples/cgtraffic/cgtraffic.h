/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __CGTRAFFIC_H
#define __CGTRAFFIC_H

/* What the sockets of one cgroup sent and received, IP headers included. */
struct traffic {
	unsigned long long sent_bytes;
	unsigned long long sent_packets;
	unsigned long long received_bytes;
	unsigned long long received_packets;
};

#endif
