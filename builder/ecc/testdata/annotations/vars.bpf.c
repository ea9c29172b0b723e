// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "vars.h"

/// A tool with many options
char LICENSE[] SEC("license") = "GPL";

/// @description how many bytes count as large
/// @cmdarg {"default": 4096, "short": "b", "long": "bytes", "help": "size in bytes"}
const volatile unsigned int large = 1;
/** @cmdarg {"default": false, "long": "quiet"} */
const volatile bool quiet = false;
/*! @cmdarg {"default": true} @description switch it off with --disable-loud */
const volatile bool loud = true;
/// just words, no command
const volatile int only_words = 0;
/// first line
/// second line
/// third line
const volatile int three_lines = 0;
/// paragraph one
///
/// paragraph two
const volatile int two_paragraphs = 0;
/// @cmdarg {"default": 1}
/// @cmdarg {"default": 2}
const volatile int said_twice = 0;
/// @cmdarg {"default": 1e3, "more": [1.50, -0, 1e16, 18446744073709551615]}
const volatile int numbers = 0;
/// @cmdarg
const volatile int no_argument = 0;
/// @value 7
/// @type "replaced"
/// @size 99
const volatile int keys_replaced = 0;
/// @value "seven"
const volatile char text_value[8] = "";
// @description an ordinary comment
const volatile int ordinary_line = 0;
/* @description an ordinary block comment */
const volatile int ordinary_block = 0;
const volatile int trailing = 0; ///< @description said behind it
const volatile int trailing_block = 0; /**< @cmdarg {"long": "behind"} */
/// @description two names in one declaration
const volatile int pair_a = 0, pair_b = 1;
/// @description above, but a blank line follows

const volatile int blank_between = 0;
/// @description said at the declaration
extern const volatile int declared_before;
const volatile int declared_before = 0;
/// @description lost, because another comment follows
/// @description kept
/* ordinary between */
const volatile int comment_between = 0;
/// \description backslash instead of at
const volatile int backslash = 0;
/// @description    blanks around    
const volatile int blanks = 0;
/// @description größer als — 日本
const volatile int utf8 = 0;
/// @description null
const volatile int is_null = 0;
/// @description [1, 2]
const volatile int is_array = 0;
/// @description "quoted"
const volatile int is_quoted = 0;
/// @description 1e3
const volatile int is_number = 0;
/// @description 18446744073709551615
const volatile int is_u64 = 0;
/// @description 0.1
const volatile int is_float = 0;
/// @description true
const volatile int is_true = 0;
/// @description 007
const volatile int is_octal = 0;
/// @description {"b": 1, "a": {"z": 1, "y": [ ]}}
const volatile int is_object = 0;
/// @cmdarg2 3
const volatile int digit_in_command = 0;
/// @cmd-arg 3
const volatile int dash_in_command = 0;
/// mail me@example.org or 50@home
const volatile int at_inside = 0;
/// @@description doubled
const volatile int doubled = 0;
/// @ description with a gap
const volatile int gap = 0;
/// @1st place
const volatile int digit_first = 0;
/// @description ends with a semicolon; and "quotes" in 'it' \ back
const volatile int odd_signs = 0;

/// @description a global that is written
/// @cmdarg {"short": "c"}
int counter;
/// @description initialised
long started = 5;
/// @description a static is not in the skeleton
static int hidden;

SEC("tp/syscalls/sys_enter_getpid")
int on_getpid(void *ctx)
{
	counter += in_header + hidden++;
	return started;
}
