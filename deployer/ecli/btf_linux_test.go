// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// hideBTF makes this thread one of a kernel that does not show its types.
func hideBTF(t *testing.T) {
	t.Helper()
	if err := errors.Join(
		unix.Unshare(unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", "/sys/kernel/btf", "tmpfs", 0, ""),
	); err != nil {
		t.Error(err)
	}
}

// TestNoBTF: without the kernel's types those packages run whose objects do not
// ask for any, and the others with a file of them.
func TestNoBTF(t *testing.T) {
	needRoot(t)
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "kernel.btf")
	if err := os.WriteFile(saved, types, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, pkg, file string
		want            string // the error; "" for none
	}{
		{"no relocations", "no-export/package", "", ""},
		{"relocations", "probes/package", "", "BTF"},
		{"relocations and a file", "probes/package", saved, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(btfFileEnv, tt.file)
			pkg, _ := readPackage(t, tt.pkg)
			if tt.want == "" {
				s := &session{t: t, beforehand: func() { hideBTF(t) }}
				s.begin(Options{Package: pkg}).end()
				return
			}
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // not given back: it is in another namespace
				hideBTF(t)
				done <- Run(t.Context(), Options{Package: pkg, Stdout: io.Discard, Stderr: io.Discard})
			}()
			err := <-done
			if err == nil || manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v (kind %d)", err, manifest.KindOf(err))
			}
			for _, word := range []string{"CONFIG_DEBUG_INFO_BTF", "/sys/kernel/btf/vmlinux", btfFileEnv, "tp_btf"} {
				if advice := manifest.AdviceOf(err); !strings.Contains(advice, word) {
					t.Errorf("%v: the advice %q does not name %s", err, advice, word)
				}
			}
		})
	}
}
