// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "xdpsyn.h"

#define ETH_P_IP 0x0800

/// @description only SYNs to this port; 0 is every port
/// @cmdarg {"default": 0, "short": "p", "long": "port"}
const volatile unsigned short port = 0;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} syns SEC(".maps");

/* Writes the digits of a byte and what follows it; returns their number. */
static __always_inline int put_byte(char *p, unsigned char n, char end)
{
	int i = 0;

	if (n >= 100)
		p[i++ & 3] = '0' + n / 100;
	if (n >= 10)
		p[i++ & 3] = '0' + n / 10 % 10;
	p[i++ & 3] = '0' + n % 10;
	p[i & 3] = end;
	return i + 1;
}

/* The address is in network order. */
static __always_inline void put_address(char *p, u32 address)
{
	unsigned char *a = (unsigned char *)&address;
	int at;

	at = put_byte(p, a[0], '.');
	at += put_byte(p + (at & 15), a[1], '.');
	at += put_byte(p + (at & 15), a[2], '.');
	if (at <= 12)
		put_byte(p + at, a[3], 0);
}

SEC("xdp")
int report_syns(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp;
	struct syn *s;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	/* The header has options where ihl is above 5, and fragments have no port. */
	if (ip->ihl < 5 || ip->frag_off & bpf_htons(0x1fff))
		return XDP_PASS;
	tcp = (void *)ip + ip->ihl * 4;
	if ((void *)(tcp + 1) > end || !tcp->syn || tcp->ack)
		return XDP_PASS;
	if (port && tcp->dest != bpf_htons(port))
		return XDP_PASS;
	s = bpf_ringbuf_reserve(&syns, sizeof(*s), 0);
	if (!s)
		return XDP_PASS;
	__builtin_memset(s, 0, sizeof(*s));
	s->ifindex = ctx->ingress_ifindex;
	put_address(s->saddr, ip->saddr);
	put_address(s->daddr, ip->daddr);
	s->sport = bpf_ntohs(tcp->source);
	s->dport = bpf_ntohs(tcp->dest);
	bpf_ringbuf_submit(s, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
