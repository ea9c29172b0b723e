// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"fmt"

	"golang.org/x/sys/unix"
)

// These tell apart what has the name of something else that was there before, to
// which an earlier instance is still attached.

// sameBinary tells files with functions apart.
func sameBinary(p *plannedProgram, o *Options) (string, error) {
	u, err := parseUprobe(p)
	if err != nil {
		return "", err
	}
	file, path, err := p.openUserTarget(o, u.binary)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	id, err := inodeOf(int(file.Fd()))
	return path + id, err
}

// inodeOf is equal for two open files of the same inode and content.
func inodeOf(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("stat: %w", err)
	}
	return fmt.Sprintf(" %d:%d %d %d.%09d", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec), nil
}

// sameInterface tells network interfaces apart.
func sameInterface(from func(*plannedProgram) (netInterface, error)) func(*plannedProgram, *Options) (string, error) {
	return func(p *plannedProgram, _ *Options) (string, error) {
		i, err := from(p)
		if err != nil {
			return "", err
		}
		iface, err := i.find(p)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d %s", iface.Index, iface.HardwareAddr), nil
	}
}

// annotatedInterface is the interface that a package names beside the program.
func annotatedInterface(p *plannedProgram) (netInterface, error) {
	return parseInterface(p.meta.Extra["ifindex"])
}

// sameCgroup tells cgroups apart.
func sameCgroup(p *plannedProgram, _ *Options) (string, error) {
	root := cgroup2()
	if root == "" {
		return "", nil // to attach fails, and says why
	}
	dir, err := openCgroup(root, cmp.Or(p.at.Cgroup, root))
	if err != nil {
		return "", err
	}
	defer func() { _ = dir.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat: %w", err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}
