// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
/// @description directly under the includes, above the licence
char LICENSE[] SEC("license") = "GPL";

/// @description first block

/// @description second block after a blank line
int two_blocks;

/// @description above an ordinary comment
// ordinary
int ordinary_between;

/** @description javadoc */
/// @description then slashes
int kinds_mixed;

/// @description slashes
/** @description then javadoc */
int kinds_mixed_back;

/** @value 1 */
/** @description two javadoc blocks */
int two_javadoc;

/// @description above a preprocessor line
#define ANYTHING 1
int after_define;

/// @description above an include
#include <bpf/bpf_endian.h>
int after_include;

/// @description above an empty declaration
;
int after_semicolon;

int same_line_before; /// @description three slashes behind, without the sign
int next_after_that;

/* @description starts with one star */ int one_star;
/** @description same line, before */ int same_line;
int /** @description inside the declaration */ inside;
/// @description far above


int far_below;

#define GLOBAL(name) int name
/// @description above a macro that makes a variable
GLOBAL(by_macro);

#define DOCUMENTED(name) /** @description in a macro body */ int name
DOCUMENTED(doc_in_macro);

/// @description above a macro that makes a map
#define SMALL_MAP(name) struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, int); __type(value, int); } name SEC(".maps")
SMALL_MAP(undocumented);
/// @description above the use of the macro
SMALL_MAP(map_by_macro);

/// @description above BPF_PROG
SEC("fentry/do_unlinkat")
int BPF_PROG(prog_macro, int dfd)
{
	return 0;
}

/// @description above BPF_KPROBE
SEC("kprobe/do_unlinkat")
int BPF_KPROBE(kprobe_macro, int dfd)
{
	return 0;
}

/// @description above BPF_KRETPROBE
SEC("kretprobe/do_unlinkat")
int BPF_KRETPROBE(kretprobe_macro, int ret)
{
	return 0;
}

/// @description above BPF_KSYSCALL
SEC("ksyscall/unlinkat")
int BPF_KSYSCALL(ksyscall_macro, int dfd)
{
	return 0;
}

int not_documented(void *ctx);
/// @description at the second declaration only
SEC("tp/sched/sched_switch")
int not_documented(void *ctx)
{
	return 0;
}

/// @description the same name as a variable and a program
int both_names;
SEC("tp/sched/sched_switch")
int uses(void *both_names)
{
	return ANYTHING;
}

/// @description an enum between
enum number { ONE } enum_var;

/// @description struct with a variable
struct thing { int a; } thing_var;

/// @description a typedef between
typedef int my_int;
my_int typed_var;

extern int extern_only_undocumented;
/**
 * @description   indented
 *
 *
 * @cmdarg {"short": "z"}
 */
int after_gap;
