// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "cgtraffic.h"

/* Of what a program of a cgroup returns; 0 drops the packet. */
#define PASS 1

/// @description only the cgroup with this id, the inode of its folder; 0 is every one
/// @cmdarg {"default": 0, "short": "c", "long": "cgroup"}
const volatile unsigned long long target_cgroup = 0;

struct cgroup_id {
	u64 cgroup;
};

/// @sample {"interval": 1000}
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 10240);
	__type(key, struct cgroup_id);
	__type(value, struct traffic);
} cgroups SEC(".maps");

static const struct traffic no_traffic;

static __always_inline struct traffic *traffic_of(struct __sk_buff *skb)
{
	struct cgroup_id id = { .cgroup = bpf_skb_cgroup_id(skb) };
	struct traffic *t;

	if (!id.cgroup || (target_cgroup && id.cgroup != target_cgroup))
		return NULL;
	t = bpf_map_lookup_elem(&cgroups, &id);
	if (t)
		return t;
	bpf_map_update_elem(&cgroups, &id, &no_traffic, BPF_NOEXIST);
	return bpf_map_lookup_elem(&cgroups, &id);
}

SEC("cgroup_skb/egress")
int count_sent(struct __sk_buff *skb)
{
	struct traffic *t = traffic_of(skb);

	if (t) {
		__sync_fetch_and_add(&t->sent_bytes, skb->len);
		__sync_fetch_and_add(&t->sent_packets, 1);
	}
	return PASS;
}

SEC("cgroup_skb/ingress")
int count_received(struct __sk_buff *skb)
{
	struct traffic *t = traffic_of(skb);

	if (t) {
		__sync_fetch_and_add(&t->received_bytes, skb->len);
		__sync_fetch_and_add(&t->received_packets, 1);
	}
	return PASS;
}

/// @brief Shows the bytes and packets that each cgroup sends and receives.
/// @details It counts from the start on: packets of sockets, with their IP headers, by cgroup v2.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
