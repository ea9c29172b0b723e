/* SPDX-License-Identifier: Apache-2.0
 *
 * glibc's <stdint.h> and whatever else includes <features.h> asks for this file
 * where the compiler does not say that it is a 64-bit x86: eBPF is not, and the
 * file is in none of the packages that clang needs. What it holds in glibc is
 * the list of C functions that the library lacks, of which eBPF has none.
 */
