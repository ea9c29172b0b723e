// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/ebpm/ebpm/manifest"
)

// The tests of this package run on several kernels: `make kernels`, or
// `go run ./e2e/kernel/qemu ./deployer/ecli`. What a kernel lacks, the runner's
// own error says, and the test is skipped with that reason. [hookTest.fires]
// does all of this; a test with a program of its own calls skipLacking with the
// error of attaching, and works once it has seen the program fire. Both also
// write the attribute from which docs/hooks.md is made. A skip must be listed in
// e2e/skips.txt, as one of deployer/ecli on the machine's own kernel, and of
// e2e/kernel TestRunner/6.1 or TestRunner/6.12 on those.

// hookAttr is the key of the attribute "SECTION: RESULT" of a test.
const hookAttr = "hook"

// vmEnv is set in the virtual machine, where nothing but the kernel refuses
// what root does.
const vmEnv = "EBPM_TEST_KERNEL"

// works says that the program in a section was attached and seen to fire.
func works(t *testing.T, section string) {
	t.Attr(hookAttr, section+": works")
}

// skipLacking skips the test when err says that the running kernel lacks what
// the program in a section needs. For a test of anything but a hook, section
// is "".
func skipLacking(t *testing.T, section string, err error) {
	t.Helper()
	reason := lacking(err, kernelRelease(), os.Getenv(vmEnv) != "")
	if reason == "" {
		return
	}
	if section != "" {
		t.Attr(hookAttr, section+": "+reason)
	}
	t.Skipf("%s: %v", reason, err)
}

var (
	versionText = regexp.MustCompile(`(?:[Ll]inux|since|before|requires >=) v?(\d+)\.(\d+)`)
	configText  = regexp.MustCompile(`CONFIG_[A-Z0-9_]+`)
)

// lacking returns what a kernel lacks by the error of a run, or "" when the
// error is another one. An error of [manifest.KindPrecondition] that names
// neither a version later than the kernel's nor an option of its build is
// another one: users could not tell either what they need.
func lacking(err error, release string, inVM bool) string {
	if !errors.Is(err, ebpf.ErrNotSupported) && manifest.KindOf(explain(err)) != manifest.KindPrecondition {
		return ""
	}
	text := err.Error() + "\n" + manifest.AdviceOf(err)
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return ""
	}
	for _, m := range versionText.FindAllStringSubmatch(text, -1) {
		var wantMajor, wantMinor int
		if _, err := fmt.Sscan(m[1]+" "+m[2], &wantMajor, &wantMinor); err != nil {
			continue
		}
		if wantMajor > major || wantMajor == major && wantMinor > minor {
			return fmt.Sprintf("needs Linux %d.%d", wantMajor, wantMinor)
		}
	}
	if config := configText.FindString(text); config != "" {
		return "needs " + config
	}
	if errors.Is(err, fs.ErrPermission) && !inVM {
		return "refused"
	}
	return ""
}

func TestLacking(t *testing.T) {
	unsupported := fmt.Errorf("attach: %w (requires >= v6.6)", ebpf.ErrNotSupported)
	precondition := func(text, advice string) error {
		return manifest.WithKind(manifest.KindPrecondition, errors.New(text), advice)
	}
	for _, tt := range []struct {
		err     error
		release string
		inVM    bool
		want    string
	}{
		{unsupported, "6.1.0-56-cloud-amd64", true, "needs Linux 6.6"},
		{unsupported, "6.12.1", true, ""}, // it should be there
		{unsupported, "5.15", false, "needs Linux 6.6"},
		{unsupported, "7.0", false, ""},
		{precondition("no kprobes", "It needs CONFIG_KPROBES."), "6.18", false, "needs CONFIG_KPROBES"},
		{precondition("no netfilter links", "Linux has them since 6.4, with CONFIG_NETFILTER_BPF_LINK."), "6.1", true, "needs Linux 6.4"},
		{precondition("no netfilter links", "Linux has them since 6.4, with CONFIG_NETFILTER_BPF_LINK."), "6.12", true, "needs CONFIG_NETFILTER_BPF_LINK"},
		{precondition("no interface eth0", ""), "6.1", true, ""},
		{errors.New("it needs Linux 6.6"), "6.1", true, ""}, // users would get no exit code 5
		{fmt.Errorf("attach: %w", os.ErrPermission), "6.18", false, "refused"},
		{fmt.Errorf("attach: %w", os.ErrPermission), "6.12", true, ""},
	} {
		if got := lacking(tt.err, tt.release, tt.inVM); got != tt.want {
			t.Errorf("%s on %s: %q, want %q", strings.ReplaceAll(tt.err.Error(), "\n", " "), tt.release, got, tt.want)
		}
	}
}
