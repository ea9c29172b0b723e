// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// linkKinds begin what /proc says of files that hold a program in its place: a link,
// an event of perf, a socket with a filter.
var linkKinds = []string{"anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:[perf_event]", "socket:["}

// CheckLinks refuses files in the place of links that cannot be any: with them a
// program would not be where its instance believes. The parts' files begin at first.
func CheckLinks(parts []Part, files []int, first int) error {
	at := first
	for _, p := range parts {
		at += p.head()
		for range p.Links {
			name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", files[at]))
			if err != nil {
				return fmt.Errorf("program %.40q: look at its link: %w", p.Name, err)
			}
			if !slices.ContainsFunc(linkKinds, func(kind string) bool { return strings.HasPrefix(name, kind) }) {
				return fmt.Errorf("program %.40q: %.80q in place of a link", p.Name, name)
			}
			at++
		}
	}
	return nil
}
