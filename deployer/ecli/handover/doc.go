// SPDX-License-Identifier: Apache-2.0

// Package handover lets an instance of a release take the place of another one on
// the same node without losing or doubling an event.
//
// A program of the release is not attached itself: a dispatcher of the same type
// is, which calls one of two slots. A cell, one word that all dispatchers of the
// release read, says which. A new instance gets the dispatchers' links, the slots,
// the cell and the maps with state from the current one over a unix socket, puts
// its own programs into the free slots, and moves all of them by one write to the
// cell. The current one prints what is left in its buffers and stays as a standby:
// its programs stay in their slots, so that it goes on where the new one dies.
//
// Nothing is pinned. What the kernel holds of a release ends with the last process
// that holds it.
package handover
