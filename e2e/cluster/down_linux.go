// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// lockFile keeps two commands from changing the cluster at once.
const lockFile = "/run/ebpm-cluster.lock"

// lock waits for the cluster's lock. Its file is removed with it, so that a
// machine without a cluster has no trace of one.
func lock(ctx context.Context, log io.Writer) (unlock func() error, err error) {
	said := false
	for {
		l := flock.New(lockFile)
		locked, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", lockFile, err)
		}
		if locked {
			// Whoever had it before may have removed the file meanwhile.
			here, hereErr := os.Stat(lockFile)
			held, heldErr := l.Stat()
			if hereErr == nil && heldErr == nil && os.SameFile(here, held) {
				return func() error { return errors.Join(os.Remove(lockFile), l.Close()) }, nil
			}
			if err := l.Close(); err != nil {
				return nil, fmt.Errorf("unlock %s: %w", lockFile, err)
			}
			continue
		}
		if !said {
			fmt.Fprintln(log, "another command is starting or removing the cluster: waiting for it")
			said = true
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Down removes the cluster and all that belongs to it: the Pods, the
// processes, namespaces, links, routes, mounts, cgroups and files; not the
// built programs in the cache. Without a cluster it does nothing. It also
// removes what an Up or a Down that was cut off left. It needs root.
func Down(ctx context.Context, log io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("remove the cluster: %w", errNotRoot)
	}
	unlock, err := lock(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	left, err := leftovers()
	if err != nil {
		return fmt.Errorf("remove the cluster: %w", err)
	}
	if len(left) == 0 {
		fmt.Fprintln(log, "no cluster is up")
		return nil
	}
	begin := time.Now()
	s, err := readState(stateDir)
	if err != nil {
		// An unreadable state must not keep the rest from being removed.
		fmt.Fprintf(log, "%v: kernel settings and mounts from before are not restored\n", err)
	}
	if err := down(ctx, s); err != nil {
		if left, listErr := leftovers(); listErr == nil && len(left) > 0 {
			fmt.Fprintf(log, "these parts of the cluster are left: %s\nrun `make cluster-down` again\n", strings.Join(left, ", "))
		}
		return fmt.Errorf("remove the cluster: %w", err)
	}
	fmt.Fprintf(log, "the cluster is removed (%.1f s)\n", time.Since(begin).Seconds())
	return nil
}

// down removes everything; s is nil where nothing was written down.
func down(ctx context.Context, s *state) error {
	// Long enough for an eBPF program's runner to say goodbye; what the
	// cluster's own programs would write down is removed anyway.
	const patience = 2 * time.Second
	// Kubelets first: they start again what ends. Then the containers, whose
	// shims would outlive containerd.
	if err := endProcesses(ctx, matching(func(f found) bool { return strings.HasSuffix(f.name, "/kubelet") }), patience); err != nil {
		return err
	}
	if err := endProcesses(ctx, containerProcesses, patience); err != nil {
		return err
	}
	// A shim waits for containerd to let it go, whatever the signal.
	if err := endProcesses(ctx, matching(func(f found) bool { return !strings.HasPrefix(f.exe, "containerd-shim") }), patience); err != nil {
		return err
	}
	if err := endProcesses(ctx, matching(func(found) bool { return true }), 0); err != nil {
		return err
	}
	// A container that was being made meanwhile.
	if err := endProcesses(ctx, containerProcesses, 0); err != nil {
		return err
	}

	for _, n := range nodes {
		if linkExists(n.linkName()) {
			if err := quiet(ctx, "ip", "link", "del", n.linkName()); err != nil && linkExists(n.linkName()) {
				return err
			}
		}
	}
	if linkExists(bridgeName) {
		if err := quiet(ctx, "ip", "link", "del", bridgeName); err != nil && linkExists(bridgeName) {
			return err
		}
	}
	mounts, err := mountsBelow(stateDir)
	if err != nil {
		return err
	}
	slices.Reverse(mounts)
	for _, point := range mounts {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	if err := removeCgroups(ctx); err != nil {
		return err
	}
	if s != nil {
		if err := s.restore(); err != nil {
			return err
		}
	}
	// RemoveAll would follow a mount that appeared meanwhile.
	if mounts, err := mountsBelow(stateDir); err != nil || len(mounts) > 0 {
		return errors.Join(err, fmt.Errorf("still mounted below %s: %v", stateDir, mounts))
	}
	return os.RemoveAll(stateDir)
}

// matching lists the processes of the cluster that a condition holds for.
func matching(condition func(found) bool) func() ([]int, error) {
	return func() ([]int, error) {
		all, err := findProcesses()
		var pids []int
		for _, f := range all {
			if condition(f) && f.pid != os.Getpid() {
				pids = append(pids, f.pid)
			}
		}
		return pids, err
	}
}

// restore puts back the kernel's settings and unmounts what Up mounted.
func (s *state) restore() error {
	for name, value := range s.Sysctls {
		file := "/proc/sys/" + name
		if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return fmt.Errorf("restore the kernel's setting: %w", err)
		}
	}
	for _, point := range slices.Backward(s.Mounts) {
		mounted, err := isMountPoint(point)
		if err != nil {
			return err
		}
		if mounted {
			if err := unix.Unmount(point, 0); err != nil {
				return fmt.Errorf("unmount %s, which the cluster mounted: %w (some program uses it; end that program and run `make cluster-down` again)", point, err)
			}
		}
	}
	return nil
}

// leftovers names the parts of a cluster that exist, running or not.
func leftovers() ([]string, error) {
	var left []string
	all, err := findProcesses()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, f := range all {
		if !seen[f.name] {
			seen[f.name] = true
			left = append(left, "process "+f.name)
		}
	}
	pids, err := containerProcesses()
	if err != nil {
		return nil, err
	}
	if len(pids) > 0 {
		left = append(left, fmt.Sprintf("%d processes in containers", len(pids)))
	}
	for _, n := range nodes {
		if linkExists(n.linkName()) {
			left = append(left, "link "+n.linkName())
		}
	}
	if linkExists(bridgeName) {
		left = append(left, "link "+bridgeName)
	}
	groups, err := cgroups()
	if err != nil {
		return nil, err
	}
	if len(groups) > 0 {
		left = append(left, "cgroups "+cgroupRoot)
	}
	if exists(stateDir) {
		left = append(left, "folder "+stateDir)
	}
	return left, nil
}
