// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "xdpcount.h"

/// @description report one packet in this many
/// @cmdarg {"default": 1, "short": "e", "long": "every"}
const volatile unsigned int every = 1;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} packets SEC(".maps");

SEC("xdp")
int count_packets(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct packet *p;
	u32 zero = 0;
	u64 *count;

	count = bpf_map_lookup_elem(&counts, &zero);
	if (!count)
		return XDP_PASS;
	(*count)++;
	if (!every || *count % every)
		return XDP_PASS;
	p = bpf_ringbuf_reserve(&packets, sizeof(*p), 0);
	if (!p)
		return XDP_PASS;
	p->count = *count;
	p->ifindex = ctx->ingress_ifindex;
	/* end - data would be a pointer leak to the verifier: it asks for PERFMON */
	p->bytes = bpf_xdp_get_buff_len(ctx);
	p->ethertype = (void *)(eth + 1) <= end ? bpf_ntohs(eth->h_proto) : 0;
	bpf_ringbuf_submit(p, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
