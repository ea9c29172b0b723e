// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// What `ebpm pull --program DIR` writes: one of these files.
const (
	pulledPackage = manifest.PackageFile
	pulledModule  = "module"   // of an image that ecli pushed
	pulledFile    = "download" // of a URL
)

// ebpmCall is one run of ebpm, which does what needs a network: this program
// has the rights of the kernel, and speaks to nobody.
type ebpmCall struct {
	args           []string
	stdin          []byte
	stdout, stderr io.Writer
}

// ebpmWait is how long ebpm may clean up after a signal.
const ebpmWait = 10 * time.Second

func runEbpm(ctx context.Context, call ebpmCall) error {
	path, err := findEbpm()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, call.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(call.stdin), call.stdout, call.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = ebpmWait
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("ebpm failed, and says why (%w)", exit)
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// findEbpm returns the ebpm in the folder of this program, else that of PATH.
func findEbpm() (string, error) {
	beside := "the folder of ecli"
	if self, err := os.Executable(); err == nil {
		// The two may be installed by links into a folder of PATH.
		for _, self := range []string{self, resolved(self)} {
			path := filepath.Join(filepath.Dir(self), "ebpm")
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path, nil
			}
		}
		beside = filepath.Dir(self)
	}
	path, err := exec.LookPath("ebpm")
	if err != nil {
		return "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("there is no ebpm in %s and none in PATH", beside),
			"ecli has ebpm fetch URLs and do what concerns registries: put the two into one folder.")
	}
	return path, nil
}

func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}
