// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

// Programs that see numbered events, one at each hook for which such events can be
// made: three are in the file that is included. load_test.go makes the events. Each
// run of the tests has a FIRST_THREAD of its own.
#define RECORDS (16 << 20) // bytes
#include "../../../deployer/ecli/testdata/handover/load.bpf.c"
#include <bpf/bpf_endian.h>

#define SETPRIORITY 141
#define FIRST_PORT 100 // the threads' ports, the upper byte
#define FIRST_TCP_PORT 116
#define ETH_P_IP 0x0800
#define ETHERTYPE 0x88b5 // IEEE 802, for experiments
#define LEVEL 0xeb	// of an option that no socket has

// Go passes its first two arguments in rax and rbx.
SEC("uprobe")
int by_uprobe(struct pt_regs *ctx)
{
	see(3, BPF_CORE_READ(ctx, ax), BPF_CORE_READ(ctx, bx));
	return 0;
}

// What is sent, in a frame and in a datagram.
struct numbers {
	__be32 which;
	__be32 n;
};

SEC("xdp")
int by_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct numbers *w = data + sizeof(*eth);

	if ((void *)(w + 1) > end || eth->h_proto != bpf_htons(ETHERTYPE))
		return XDP_PASS;
	see(4, bpf_ntohl(w->which), bpf_ntohl(w->n));
	return XDP_PASS;
}

SEC("tcx/ingress")
int by_tcx(struct __sk_buff *skb)
{
	struct numbers w;

	if (skb->protocol == bpf_htons(ETHERTYPE) && !bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &w, sizeof(w)))
		see(5, bpf_ntohl(w.which), bpf_ntohl(w.n));
	return -1; // TCX_NEXT
}

SEC("socket")
int by_socket(struct __sk_buff *skb)
{
	struct numbers w;

	if (skb->protocol == bpf_htons(ETHERTYPE) && !bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &w, sizeof(w)))
		see(6, bpf_ntohl(w.which), bpf_ntohl(w.n));
	return 0;
}

// The number is the address in 127.0.0.0/8, the thread the port.
SEC("cgroup/connect4")
int by_connect4(struct bpf_sock_addr *ctx)
{
	see(7, (bpf_ntohs(ctx->user_port) >> 8) - FIRST_PORT + FIRST_THREAD, bpf_ntohl(ctx->user_ip4) & 0xffffff);
	return 1;
}

SEC("cgroup_skb/egress")
int by_cgroup_skb(struct __sk_buff *skb)
{
	struct numbers w;

	if (skb->protocol == bpf_htons(ETH_P_IP) && skb->len == 20 + 8 + sizeof(w) &&
	    !bpf_skb_load_bytes(skb, 20 + 8, &w, sizeof(w)))
		see(8, bpf_ntohl(w.which), bpf_ntohl(w.n));
	return 1;
}

SEC("sk_lookup")
int by_sk_lookup(struct bpf_sk_lookup *ctx)
{
	see(9, (ctx->local_port >> 8) - FIRST_PORT + FIRST_THREAD, bpf_ntohl(ctx->local_ip4) & 0xffffff);
	return SK_PASS;
}

SEC("cgroup/sysctl")
int by_sysctl(struct bpf_sysctl *ctx)
{
	char text[16] = {};
	unsigned long n;

	if (!ctx->write || bpf_sysctl_get_new_value(ctx, text, sizeof(text)) < 0)
		return 1;
	if (bpf_strtoul(text, sizeof(text), 10, &n) > 0)
		see(10, n % 8 + FIRST_THREAD, n / 8);
	return 1;
}

SEC("cgroup/setsockopt")
int by_setsockopt(struct bpf_sockopt *ctx)
{
	__u32 *n = ctx->optval;

	if (ctx->level == LEVEL && (void *)(n + 1) <= ctx->optval_end)
		see(11, ctx->optname, *n);
	return 1;
}

// This one moves to another place with each version.
#if VERSION == 1
SEC("tracepoint/syscalls/sys_enter_setpriority")
int by_changed(struct trace_event_raw_sys_enter *ctx)
{
	see(12, ctx->args[0], ctx->args[1]);
	return 0;
}
#else
SEC("raw_tp/sys_enter")
int by_changed(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];

	if (ctx->args[1] == SETPRIORITY)
		see(12, PT_REGS_PARM1_CORE_SYSCALL(regs), PT_REGS_PARM2_CORE_SYSCALL(regs));
	return 0;
}
#endif

// Nothing can stand behind a dispatcher that sleeps.
SEC("uprobe.s")
int by_sleepable(struct pt_regs *ctx)
{
	see(13, BPF_CORE_READ(ctx, ax), BPF_CORE_READ(ctx, bx));
	return 0;
}

// The same numbers as those of connect4.
SEC("sockops")
int by_sockops(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		see(14, (bpf_ntohl(ctx->remote_port) >> 8) - FIRST_TCP_PORT + FIRST_THREAD, bpf_ntohl(ctx->remote_ip4) & 0xffffff);
	return 1;
}

SEC("cgroup/sendmsg4")
int by_sendmsg4(struct bpf_sock_addr *ctx)
{
	see(15, (bpf_ntohs(ctx->user_port) >> 8) - FIRST_PORT + FIRST_THREAD, bpf_ntohl(ctx->user_ip4) & 0xffffff);
	return 1;
}

SEC("netfilter")
int by_netfilter(struct bpf_nf_ctx *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx->skb;
	struct numbers w;

	// The data begin with the header of IPv4.
	if (BPF_CORE_READ(skb, len) == 20 + 8 + sizeof(w) &&
	    !bpf_probe_read_kernel(&w, sizeof(w), BPF_CORE_READ(skb, data) + 20 + 8))
		see(16, bpf_ntohl(w.which), bpf_ntohl(w.n));
	return 1; // NF_ACCEPT
}

SEC("uprobe.multi")
int by_multi(struct pt_regs *ctx)
{
	see(17, BPF_CORE_READ(ctx, ax), BPF_CORE_READ(ctx, bx));
	return 0;
}

#ifdef MORE
SEC("tracepoint/syscalls/sys_enter_getpgid")
int by_more(struct trace_event_raw_sys_enter *ctx)
{
	see(18, ctx->args[0], 1);
	return 0;
}
#endif
