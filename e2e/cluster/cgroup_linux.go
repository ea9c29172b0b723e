// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const cgroupMount = "/sys/fs/cgroup"

// hierarchies returns the roots of the machine's cgroup hierarchies: one with
// cgroup version 2; one a controller, and maybe one of version 2 beside them,
// with version 1.
func hierarchies() ([]string, error) {
	if exists(filepath.Join(cgroupMount, "cgroup.controllers")) {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, fmt.Errorf("list the cgroup hierarchies: %w", err)
	}
	var roots []string
	for _, entry := range entries {
		root := filepath.Join(cgroupMount, entry.Name())
		// Links are second names of joint hierarchies.
		if entry.IsDir() && exists(filepath.Join(root, "cgroup.procs")) {
			roots = append(roots, root)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("list the cgroup hierarchies: none is mounted at %s", cgroupMount)
	}
	return roots, nil
}

// ensureCgroup makes the cgroup below which the node's kubelet works. A
// kubelet does not make the one that it is given as its root.
func ensureCgroup(n node) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		parent := root
		for _, name := range []string{cgroupRoot, n.name} {
			group := filepath.Join(parent, name)
			if err := delegate(parent); err != nil {
				return err
			}
			if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make the cgroup: %w", err)
			}
			// With version 1 a new cpuset is empty, and nothing can run in it.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(parent, group, file); err != nil {
					return err
				}
			}
			parent = group
		}
		if err := delegate(parent); err != nil {
			return err
		}
	}
	return nil
}

// delegate lets children of a version 2 cgroup use all controllers that it
// has. It does nothing for version 1, and nothing beside version 1, where the
// version 2 hierarchy has no controllers.
func delegate(group string) error {
	available, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	control := filepath.Join(group, "cgroup.subtree_control")
	enabled, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(available)) {
		if slices.Contains(strings.Fields(string(enabled)), controller) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("delegate the cgroup controller %s: %w", controller, err)
		}
	}
	return nil
}

// inherit copies a cpuset's setting from its parent where both have it and the
// child's is empty.
func inherit(parent, group, file string) error {
	to := filepath.Join(group, file)
	own, err := os.ReadFile(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	from, err := os.ReadFile(filepath.Join(parent, file))
	// The root of version 2 has none, and there empty means all.
	if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(own)) != "" || strings.TrimSpace(string(from)) == "" {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, from, 0)
}

// cgroups returns the cgroups of the cluster's containers, deepest first, in
// all hierarchies that are mounted.
func cgroups() ([]string, error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(root, cgroupRoot), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				list = append(list, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Reverse(list)
	return list, nil
}

// containerProcesses returns the processes inside of the cluster's containers.
func containerProcesses() ([]int, error) {
	groups, err := cgroups()
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	var pids []int
	for _, group := range groups {
		data, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			continue // removed meanwhile
		}
		for field := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && pid != 0 && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// removeCgroups removes the containers' cgroups. A cgroup stays busy for a
// moment after its last process has ended.
func removeCgroups(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		groups, err := cgroups()
		if err != nil {
			return err
		}
		if len(groups) == 0 {
			return nil
		}
		for _, group := range groups {
			err = os.Remove(group)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && time.Now().After(deadline) {
				return fmt.Errorf("remove the cgroup: %w", err)
			}
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
