// SPDX-License-Identifier: Apache-2.0

// Package ecli runs one package on the kernel of this machine: it loads the
// object, sets its global variables from command line arguments, attaches its
// programs, prints the events that they send as text or JSON, and detaches
// everything at the end.
//
// Output, arguments and attach rules are those of eunomia-bpf's ecli, with its
// known defects mended. Running needs Linux; elsewhere [Run] says so.
package ecli
