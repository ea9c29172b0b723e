// SPDX-License-Identifier: Apache-2.0

// Package registry keeps packages in registries, OCI layouts and the local
// store: it packs, pushes, pulls, copies, tags and lists them.
//
// Every byte that it hands out was hashed against the digest that asked for it,
// and every read is bounded. Errors carry a [manifest.Kind] and advice.
package registry
