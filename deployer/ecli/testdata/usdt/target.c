// SPDX-License-Identifier: Apache-2.0
// A program with USDT probes, whose arguments are wherever a compiler may leave
// them. Each run hits each probe once, but for the one that nobody waits for.
#include <stdio.h>

// A note as those of sys/sdt.h, spelled out: location, base, semaphore; the
// provider, the name, the arguments.
#define PROBE(name, semaphore, args, ...)                                      \
	__asm__ volatile("990: nop\n"                                          \
			 ".pushsection .note.stapsdt,\"\",@note\n"             \
			 ".balign 4\n"                                         \
			 ".4byte 992f-991f, 994f-993f, 3\n"                    \
			 "991: .asciz \"stapsdt\"\n"                           \
			 "992: .balign 4\n"                                    \
			 "993: .8byte 990b\n"                                  \
			 ".8byte _.stapsdt.base\n"                             \
			 ".8byte " semaphore "\n"                              \
			 ".asciz \"ebpm\"\n"                                   \
			 ".asciz \"" name "\"\n"                               \
			 ".asciz \"" args "\"\n"                               \
			 "994: .balign 4\n"                                    \
			 ".popsection\n" ::__VA_ARGS__)

__asm__(".pushsection .stapsdt.base,\"a\",@progbits\n"
	".weak _.stapsdt.base\n"
	".hidden _.stapsdt.base\n"
	"_.stapsdt.base: .space 1\n"
	".popsection\n");

// The kernel adds one for each that waits.
__attribute__((section(".probes"), used, visibility("hidden"))) volatile unsigned short guarded_semaphore;

static volatile long memory[4] = {-1, 300, -70000, 0x1122334455667788};

__attribute__((noinline)) static void twice(int n)
{
	if (n & 1)
		PROBE("twice", "0", "-4@%[n]", [n] "r"(n));
	else
		PROBE("twice", "0", "-4@%[n] -8@%[m]", [n] "r"(n), [m] "m"(memory[2]));
}

int main(int argc, char **argv)
{
	long n = argc; // 1, and the compiler does not know it

	getchar(); // whoever looks for this process finds it here
	PROBE("registers", "0", "-1@%b[a] 1@%b[a] -2@%w[b] 2@%w[b] -4@%k[c] 4@%k[c]",
	      [a] "r"((char)-n), [b] "r"((short)(-2 * n)), [c] "r"((int)(-3 * n)));
	PROBE("wide", "0", "-8@%[a] 8@%[a] -8@%[b] 8@%[c]", [a] "r"(-4 * n), [b] "r"(n << 40), [c] "r"(argv));
	PROBE("constants", "0", "-4@$-9 4@$7 8@$0x1122334455667788 -1@$-1 1@$255", "r"(n));
	PROBE("memory", "0", "-8@%[a] -4@8(%[p]) 2@16(%[p]) -1@24(%[p])", [a] "m"(*argv), [p] "r"(memory));
	PROBE("scaled", "0", "-8@(%[p],%[n],8) -4@8(%[p],%[n],8)", [p] "r"(memory), [n] "r"(n));
	PROBE("none", "0", "", "r"(n));
	twice((int)n);
	twice((int)n + 1);
	if (guarded_semaphore)
		PROBE("guarded", "guarded_semaphore", "-4@%k[n]", [n] "r"(n));
	return guarded_semaphore != 0;
}
