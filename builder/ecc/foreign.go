// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// foreignHeaders are headers in the folder that Debian has for one architecture
// alone whose constants and structs differ between [Architectures], as patterns
// of [path.Match]. The others there, such as asm/types.h, say the same on each.
var foreignHeaders = []string{
	"asm/fcntl.h", "asm/hwcap*.h", "asm/kvm*.h", "asm/mman.h", "asm/perf_regs.h", "asm/prctl.h",
	"asm/ptrace*.h", "asm/sigcontext*.h", "asm/signal.h", "asm/stat.h", "asm/statfs.h", "asm/ucontext.h",
	"asm/unistd*.h", "bits/fcntl.h", "bits/stat.h", "bits/struct_stat.h", "bits/syscall.h", "sys/user.h",
}

// warnOfForeignHeaders says which headers of this machine a compile for another
// architecture read although they hold what differs there, such as the numbers
// of system calls.
func (c *compilation) warnOfForeignHeaders(dependencies []string) {
	if c.Arch == runtime.GOARCH {
		return
	}
	for _, name := range dependencies {
		if header, ok := c.foreignHeader(name); ok {
			c.print(fmt.Appendf(nil, "%s: warning: <%s> is that of this machine (%s), its values may be wrong on %s; take them from vmlinux.h\n",
				c.Source, header, runtime.GOARCH, c.Arch))
		}
	}
}

// foreignHeader returns how a source includes a file, if it is one of
// foreignHeaders.
func (c *compilation) foreignHeader(name string) (string, bool) {
	for _, dir := range c.clang.includeDirs {
		// Such as /usr/include/x86_64-linux-gnu.
		rel, ok := below(dir, name)
		if !ok || !strings.Contains(filepath.Base(dir), "-linux-") {
			continue
		}
		header := filepath.ToSlash(rel)
		return header, slices.ContainsFunc(foreignHeaders, func(pattern string) bool {
			match, err := path.Match(pattern, header)
			return err == nil && match
		})
	}
	return "", false
}
