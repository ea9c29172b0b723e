// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ecli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// mountedEnv is set in the process that has tracefs in a mount namespace of its
// own.
const mountedEnv = "EBPM_TEST_TRACEFS"

// TestMain mounts tracefs where it is missing, for the tests alone. A process
// that a test starts in a cgroup does what the hooks of cgroups see.
func TestMain(m *testing.M) {
	if os.Getenv(activityEnv) != "" {
		if err := activity(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(probedEnv) != "" {
		if err := callProbed(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getuid() != 0 || tracefs() != "" {
		os.Exit(m.Run())
	}
	if os.Getenv(mountedEnv) != "" {
		if err := syscall.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount tracefs:", err)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), mountedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in a mount namespace:", err)
		os.Exit(1)
	}
}
