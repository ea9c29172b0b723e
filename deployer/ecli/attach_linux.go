// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// resolveTargets makes of each program whose target stands for several places
// one a place, as they are now: interfaces that match a pattern, processes of a
// container.
func resolveTargets(programs []plannedProgram) ([]plannedProgram, error) {
	type place struct {
		name string
		at   manifest.Target
	}
	seen := map[place]bool{}
	confined := map[string]bool{}
	var resolved []plannedProgram
	for _, p := range programs {
		places, err := resolveTarget(p.at)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", p.name, err)
		}
		for _, at := range places {
			// Two patterns may match one interface.
			if key := (place{p.name, at}); !seen[key] {
				seen[key] = true
				p.at, p.pid = at, cmp.Or(at.PID, p.pid)
				confined[p.name] = confined[p.name] || p.pid != 0
				resolved = append(resolved, p)
			}
		}
	}
	for i := range resolved {
		resolved[i].confined = confined[resolved[i].name]
	}
	return resolved, nil
}

func resolveTarget(at manifest.Target) ([]manifest.Target, error) {
	var places []manifest.Target
	switch {
	case at.IsPattern():
		names, err := matchingInterfaces(at.Interface)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			at.Interface = name
			places = append(places, at)
		}
	case at.Container != "":
		pids, err := containerProcesses(at.Container)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			at.PID = pid
			places = append(places, at)
		}
	default:
		places = append(places, at)
	}
	return places, nil
}

// matchingInterfaces returns the names of the interfaces that match a pattern,
// sorted.
func matchingInterfaces(pattern string) ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network interfaces: %w", err)
	}
	var names []string
	for _, i := range all {
		if ok, err := path.Match(pattern, i.Name); err != nil {
			return nil, fmt.Errorf("network interface %q: %w", pattern, err)
		} else if ok {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return nil, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("there is no network interface here that matches %s", pattern), "ip link lists them.")
	}
	slices.Sort(names)
	return names, nil
}

// containerProcesses returns the processes of the container whose id begins
// with some hexadecimal digits, by the names of their cgroups.
func containerProcesses(id string) ([]int, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	ids := map[string]bool{}
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(dir.Name())
		if err != nil {
			continue
		}
		found, err := readContainerID(pid, id)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		if found != "" {
			ids[found] = true
			pids = append(pids, pid)
		}
	}
	switch {
	case len(ids) > 1:
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("container %s: the ids of %d containers begin so", id, len(ids)), "Write more digits.")
	case len(pids) == 0:
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("container %s: no process here has a cgroup of that name", id),
			"A container is known by the id that its runtime gave it, and only while it runs; inside a Pod or container, only with the host's processes in sight.")
	}
	slices.Sort(pids)
	return pids, nil
}

// readContainerID returns the id of the container that a process is in, if it
// begins with prefix.
func readContainerID(pid int, prefix string) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := manifest.ReadBounded(f, 1<<20)
	if err != nil {
		return "", fmt.Errorf("read the cgroups of process %d: %w", pid, err)
	}
	return containerID(string(text), prefix), nil
}

// containerID finds the 64 hexadecimal digits that a container runtime makes
// part of the name of a cgroup (ID, docker-ID.scope, cri-containerd-ID.scope,
// crio-ID.scope) in a list of cgroups(7). It returns the first that begins with
// prefix.
func containerID(cgroups, prefix string) string {
	const digits = 64
	for rest := cgroups; ; {
		i := strings.Index(rest, prefix)
		if i < 0 {
			return ""
		}
		end := i
		for end < len(rest) && isHex(rest[end]) {
			end++
		}
		if end-i == digits && (i == 0 || !isHex(rest[i-1])) {
			return rest[i:end]
		}
		rest = rest[max(end, i+1):]
	}
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

// processGone is the error of a process, by its number, that is not there any more.
type processGone int

func (p processGone) Error() string { return fmt.Sprintf("there is no process %d here", int(p)) }

// attachAll attaches each program at its place. The processes of a container come
// and go: one that has ended since they were listed, or that only its parent still
// keeps, is passed by, unless no other is left.
func attachAll(programs []plannedProgram, attach func(*plannedProgram) error) error {
	type target struct {
		program string
		at      manifest.Target
	}
	ended, attached := map[target]error{}, map[target]bool{}
	for i := range programs {
		p := &programs[i]
		of := target{p.name, p.at}
		of.at.PID = 0
		err := attach(p)
		var gone processGone
		switch {
		case err == nil:
			attached[of] = true
		case of.at.Container != "" && errors.As(err, &gone):
			ended[of] = err
		default:
			return err
		}
	}
	for of, err := range ended {
		if !attached[of] {
			return err
		}
	}
	return nil
}

// openUserTarget opens the binary of a probe of user space in the root of the
// process that the probe is restricted to, else in that of the options.
func (p *plannedProgram) openUserTarget(o *Options, binary string) (*os.File, string, error) {
	if p.pid == 0 {
		return openTarget(o.Root, binary)
	}
	root := ""
	if o.Root != "" || !seesOurFiles(p.pid) {
		root = fmt.Sprintf("/proc/%d/root", p.pid)
	}
	file, path, err := openTarget(root, binary)
	if err != nil && hasEnded(p.pid) {
		return nil, "", fmt.Errorf("%s: %w", binary, processGone(p.pid))
	}
	return file, path, err
}

// hasEnded reports whether a process is gone, or a zombie, which has no root.
func hasEnded(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// seesOurFiles reports whether a process has the root and the mounts of this
// one, so that names without a path are looked for in this one's PATH.
func seesOurFiles(pid int) bool {
	for _, file := range []string{"root", "ns/mnt"} {
		its, err := os.Stat(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return false
		}
		if ours, err := os.Stat("/proc/self/" + file); err != nil || !os.SameFile(its, ours) {
			return false
		}
	}
	return true
}

// openCgroup opens a cgroup below the root of the hierarchy, and never another
// folder. path is relative to root, or absolute and in it.
func openCgroup(root, cgroup string) (*os.File, error) {
	below := cgroup
	if path.IsAbs(cgroup) {
		if cgroup != root && !strings.HasPrefix(cgroup, root+"/") {
			return nil, manifest.WithKind(manifest.KindPrecondition,
				fmt.Errorf("cgroup %s: cgroup2 is mounted at %s here", cgroup, root), "Write the path without that folder, as in system.slice.")
		}
		below = "." + strings.TrimPrefix(cgroup, root)
	}
	dir, err := os.Open(root)
	if err != nil || below == "." {
		return dir, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), below, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOSYS):
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("cgroup %s: to choose a cgroup needs openat2, which Linux has from 5.6 on", cgroup), "")
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("cgroup %s: there is none of that path in %s", cgroup, root), "The line of /proc/PID/cgroup that begins with 0:: says the cgroup of a process.")
	case err != nil:
		return nil, fmt.Errorf("open cgroup %s: %w", cgroup, err)
	}
	return os.NewFile(uintptr(fd), path.Join(root, below)), nil
}
