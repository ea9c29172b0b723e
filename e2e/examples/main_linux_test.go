// SPDX-License-Identifier: Apache-2.0

// Package examples tests the packages in the folder examples, on the kernel that
// runs: here, and in the machines of e2e/kernel.
package examples

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// isolatedEnv is set in the process that has a network and mounts of its own.
const isolatedEnv = "EBPM_TEST_ISOLATED"

// TestMain gives the tests a network in which nobody else talks, and the file
// systems that they need where these are not mounted.
func TestMain(m *testing.M) {
	if os.Getenv(isolatedEnv) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	program, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in namespaces of their own (be root):", err)
		os.Exit(1)
	}
}

func prepare() error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	if !isMounted("/sys/kernel/tracing", unix.TRACEFS_MAGIC) {
		if err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil {
			return fmt.Errorf("mount tracefs: %w", err)
		}
	}
	if cgroup2() == "" {
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2: %w", err)
		}
	}
	return nil
}

// cgroup2 returns where the runner finds cgroup2, empty if nowhere.
func cgroup2() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if isMounted(dir, unix.CGROUP2_SUPER_MAGIC) {
			return dir
		}
	}
	return ""
}

func isMounted(dir string, magic int64) bool {
	var stat unix.Statfs_t
	return unix.Statfs(dir, &stat) == nil && stat.Type == magic
}
