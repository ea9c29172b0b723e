// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
struct first {
	int pid;
};

#define HELPER(name) static __attribute__((noinline)) int name(int n)

HELPER(half)
{
	return n >> 1;
}
