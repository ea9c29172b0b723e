// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "tcpstates.h"

#define AF_INET 2

/// @description only connections with this port on either side; 0 is every port
/// @cmdarg {"default": 0, "short": "p", "long": "port"}
const volatile unsigned short port = 0;

/* The names of the kernel's states, by their numbers. */
static const char states[][STATE_LEN] = {
	"?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
	"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_RECV",
};

/* What is known of a socket. */
struct known {
	u64 since;
	int pid;
	char comm[COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct known);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} changes SEC(".maps");

/* Where the text of an address is being written, and the groups of zeros that
 * "::" stands for. It is kept in a map since the verifier takes what it reads
 * there for any number: it would otherwise follow each length of each part by
 * itself, far more than the million steps that it takes. */
struct text {
	u32 at;
	u32 zeros, after_zeros;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct text);
} texts SEC(".maps");

static __always_inline void put(volatile struct text *t, char *to, char c)
{
	u32 at = t->at;

	if (at < ADDRESS_LEN - 1)
		to[at] = c;
	t->at = at + 1;
}

static __always_inline void put_v4(volatile struct text *t, char *to, const u8 *address)
{
	int i;

	for (i = 0; i < 4; i++) {
		u8 n = address[i];

		if (i)
			put(t, to, '.');
		if (n >= 100)
			put(t, to, '0' + n / 100);
		if (n >= 10)
			put(t, to, '0' + n / 10 % 10);
		put(t, to, '0' + n % 10);
	}
}

static __always_inline void put_hex(volatile struct text *t, char *to, u16 n)
{
	int shift;

	for (shift = 12; shift >= 0; shift -= 4) {
		u8 digit = n >> shift & 0xf;

		if (shift && !(n >> shift))
			continue;
		put(t, to, digit < 10 ? '0' + digit : 'a' + digit - 10);
	}
}

/* Finds the longest run of zeros, of at least two groups. */
static __always_inline void find_zeros(volatile struct text *t, const u8 *address)
{
	u32 i, run = 0, most = 1;

	t->zeros = t->after_zeros = 8;
	for (i = 0; i < 8; i++) {
		run = address[2 * i] || address[2 * i + 1] ? 0 : run + 1;
		if (run > most) {
			most = run;
			t->zeros = i + 1 - run;
			t->after_zeros = i + 1;
		}
	}
}

/* As RFC 5952 wants it. */
static __always_inline void put_v6(volatile struct text *t, char *to, const u8 *address)
{
	u32 i;

	find_zeros(t, address);
	for (i = 0; i < 8; i++) {
		u32 zeros = t->zeros, after_zeros = t->after_zeros;

		if (i >= zeros && i < after_zeros) {
			if (i == zeros)
				put(t, to, ':');
			if (i == 7)
				put(t, to, ':');
			continue;
		}
		if (i)
			put(t, to, ':');
		/* ::ffff:a.b.c.d is an IPv4 address. */
		if (i == 6 && !zeros && after_zeros == 5 && address[10] == 0xff && address[11] == 0xff) {
			put_v4(t, to, address + 12);
			break;
		}
		put_hex(t, to, address[2 * i] << 8 | address[2 * i + 1]);
	}
}

/* The verifier lets nobody walk along the context, where the addresses are. */
static __always_inline void put_address(volatile struct text *t, char *to, u16 family, const void *v4, const void *v6)
{
	u8 address[16] = {};

	t->at = 0;
	if (family == AF_INET) {
		bpf_probe_read_kernel(address, 4, v4);
		put_v4(t, to, address);
	} else {
		bpf_probe_read_kernel(address, 16, v6);
		put_v6(t, to, address);
	}
}

SEC("tracepoint/sock/inet_sock_set_state")
int report_change(struct trace_event_raw_inet_sock_set_state *ctx)
{
	u64 socket = (u64)ctx->skaddr, now = bpf_ktime_get_ns();
	u32 old = ctx->oldstate, new = ctx->newstate;
	struct known known = {}, *before;
	struct tcp_change *c;
	struct text *text;
	u32 zero = 0;

	if (ctx->protocol != IPPROTO_TCP || old >= sizeof(states) / STATE_LEN || new >= sizeof(states) / STATE_LEN)
		return 0;
	if (port && ctx->sport != port && ctx->dport != port)
		return 0;
	text = bpf_map_lookup_elem(&texts, &zero);
	if (!text)
		return 0;
	before = bpf_map_lookup_elem(&sockets, &socket);
	if (before)
		known = *before;
	/* These two are system calls of the process that runs; others are packets. */
	if (old == TCP_CLOSE && (new == TCP_SYN_SENT || new == TCP_LISTEN)) {
		known.pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(known.comm, sizeof(known.comm));
	}

	c = bpf_ringbuf_reserve(&changes, sizeof(*c), 0);
	if (c) {
		__builtin_memset(c, 0, sizeof(*c));
		c->pid = known.pid;
		__builtin_memcpy(c->comm, known.comm, sizeof(c->comm));
		c->lport = ctx->sport;
		c->rport = ctx->dport;
		put_address(text, c->laddr, ctx->family, ctx->saddr, ctx->saddr_v6);
		put_address(text, c->raddr, ctx->family, ctx->daddr, ctx->daddr_v6);
		__builtin_memcpy(c->old_state, states[old], STATE_LEN);
		__builtin_memcpy(c->new_state, states[new], STATE_LEN);
		if (known.since)
			c->ms = (now - known.since) / 1000000;
		bpf_ringbuf_submit(c, 0);
	}

	if (new == TCP_CLOSE) {
		bpf_map_delete_elem(&sockets, &socket);
		return 0;
	}
	known.since = now;
	bpf_map_update_elem(&sockets, &socket, &known, BPF_ANY);
	return 0;
}

/// @brief Shows TCP connections that go from one state to another, and the time in each.
/// @details PID is who called connect or listen, 0 if the other side asked; MS the time in OLD_STATE.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
