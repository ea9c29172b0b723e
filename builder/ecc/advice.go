// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"regexp"

	"github.com/ebpm/ebpm/manifest"
)

// missingType matches clang's words for a type, member, constant or function
// that the headers do not have.
var missingType = regexp.MustCompile(`error: (?:no member named |use of undeclared identifier |unknown type name |incomplete definition of type |argument type .* is incomplete|variable has incomplete type |invalid application of 'sizeof' to an incomplete type |(?:call to undeclared|implicit declaration of) function )`)

// refusals are clang's messages that do not say what to do about them.
var refusals = []struct {
	message, advice string
}{
	{"Incorrect flag for llvm.bpf.preserve.type.info intrinsic",
		"It uses bpf_core_type_matches, which needs clang 15 or later: name one with -c, such as -c clang-19."},
	{"Must specify a BPF target arch via __TARGET_ARCH_xxx",
		"libbpf's headers know no registers of this architecture."},
	{"a parameter list without types is only allowed in a function definition",
		"What is called there is a macro that none of the included headers defines."},
}

// adviseOn tells what to do about a refusal of clang, as far as its messages
// show it.
func (c *compilation) adviseOn(messages []byte, err error) error {
	if !isCompileError(err) {
		return err
	}
	for _, r := range refusals {
		if bytes.Contains(messages, []byte(r.message)) {
			return manifest.WithKind(manifest.KindFailure, err, r.advice)
		}
	}
	if c.build.Vmlinux == "embedded" && missingType.Match(messages) {
		return manifest.WithKind(manifest.KindFailure, err,
			"The vmlinux.h inside ecc has the types of Debian's Linux 6.12. If another kernel has what is missing, add -a -IFOLDER with its vmlinux.h in that folder:\n"+
				"  bpftool btf dump file /sys/kernel/btf/vmlinux format c > FOLDER/vmlinux.h")
	}
	return err
}
