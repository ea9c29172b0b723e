// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debianPackages are the packages that the cluster and its build need, each
// with a file that is there when the package is, or the places where the file
// may be.
var debianPackages = []struct{ name, file string }{
	{"iproute2", "/usr/sbin/ip,/sbin/ip,/usr/bin/ip"},
	{"util-linux", "/usr/bin/nsenter"},
	{"mount", "/usr/bin/mount,/bin/mount"},
	{"containernetworking-plugins", cniPlugins + "/bridge"},
	// The build of runc, which is the only one that uses C.
	{"gcc", "/usr/bin/gcc"},
	{"libc6-dev", "/usr/include/stdio.h"},
	{"pkg-config", "/usr/bin/pkg-config"},
	{"libseccomp-dev", "/usr/include/seccomp.h"},
}

// Deps installs the Debian packages that are missing. It needs root and apt
// only when there are any.
func Deps(ctx context.Context, log io.Writer) error {
	var missing []string
	for _, p := range debianPackages {
		if !anyExists(p.file) {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("install %s: not root", list)
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("install %s: this is no Debian system (no apt-get); install what holds these files: %s", list, neededFiles())
	}
	fmt.Fprintf(log, "installing %s\n", list)
	// Another apt may be at work; wait for it rather than fail.
	install := append([]string{"-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends"}, missing...)
	if err := quiet(ctx, apt, install...); err != nil {
		if err := quiet(ctx, apt, "-o", "DPkg::Lock::Timeout=600", "update"); err != nil {
			return fmt.Errorf("update the list of Debian packages: %w", err)
		}
		if err := quiet(ctx, apt, install...); err != nil {
			return fmt.Errorf("install %s: %w", list, err)
		}
	}
	return nil
}

func anyExists(files string) bool {
	for file := range strings.SplitSeq(files, ",") {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return false
}

func neededFiles() string {
	var files []string
	for _, p := range debianPackages {
		files = append(files, strings.SplitN(p.file, ",", 2)[0])
	}
	return strings.Join(files, " ")
}

// quiet runs a command and shows what it printed only in its error.
func quiet(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := strings.TrimSpace(string(out))
	if text == "" {
		return fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, text)
}

// errNotRoot says why a cluster cannot be started or taken down.
var errNotRoot = errors.New("not root: the cluster's nodes are network and mount namespaces of this machine")
