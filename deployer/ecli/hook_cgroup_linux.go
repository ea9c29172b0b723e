// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"cgroup", "cgroup_skb", "sockops"},
		check: func(p *plannedProgram) error {
			switch {
			case p.spec.Type == ebpf.CGroupSKB && strings.HasPrefix(strings.TrimPrefix(p.spec.SectionName, "?"), "cgroup/"):
				return errors.New(`it names no direction; write SEC("cgroup_skb/ingress") or SEC("cgroup_skb/egress")`)
			case p.spec.Type == ebpf.UnspecifiedProgram:
				return errors.New("there is no such hook of a cgroup")
			}
			return nil
		},
		prepare: func(p *plannedProgram, _ *Options) error {
			if since := cgroupSince[p.spec.AttachType]; since != "" {
				return needAttachType(p, since)
			}
			return nil
		},
		identity: sameCgroup,
		attach:   attachCgroup,
	})
}

// cgroupSince has the first kernels of the places that are younger than links to
// cgroups.
var cgroupSince = map[ebpf.AttachType]string{
	ebpf.AttachCgroupInet4GetPeername: "5.8",
	ebpf.AttachCgroupInet6GetPeername: "5.8",
	ebpf.AttachCgroupInet4GetSockname: "5.8",
	ebpf.AttachCgroupInet6GetSockname: "5.8",
	ebpf.AttachCgroupInetSockRelease:  "5.9",
	ebpf.AttachCgroupUnixConnect:      "6.7",
	ebpf.AttachCgroupUnixSendmsg:      "6.7",
	ebpf.AttachCgroupUnixRecvmsg:      "6.7",
	ebpf.AttachCgroupUnixGetpeername:  "6.7",
	ebpf.AttachCgroupUnixGetsockname:  "6.7",
}

// attachCgroup attaches to the cgroup that the user chose, else to the root of
// the hierarchy, and so to every process.
func attachCgroup(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	root := cgroup2()
	if root == "" {
		return nil, "", manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("no cgroup2 file system is mounted at %s", strings.Join(cgroupMounts, " or ")),
			"Mount it: mount -t cgroup2 none "+cgroupMounts[0]+".")
	}
	cgroup, err := openCgroup(root, cmp.Or(p.at.Cgroup, root))
	if err != nil {
		return nil, "", err
	}
	defer cgroup.Close()
	path := cgroup.Name()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: prog, Attach: p.spec.AttachType})
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("cgroup %s: %w", path, err),
			"This runner attaches to cgroups by links, which Linux has since 5.7.")
	case errors.Is(err, unix.EPERM):
		// A program that was attached without BPF_F_ALLOW_MULTI allows no other.
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("cgroup %s: %w", path, err),
			"Either CAP_NET_ADMIN is missing, or another program is attached that allows no second one; bpftool cgroup tree shows it.")
	case err != nil:
		return nil, "", fmt.Errorf("cgroup %s: %w", path, err)
	}
	return l, path, nil
}

// cgroupMounts are where systemd mounts cgroup2: alone, and beside cgroup v1.
var cgroupMounts = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// cgroup2 returns where cgroup2 is mounted, empty if nowhere.
func cgroup2() string {
	for _, dir := range cgroupMounts {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}
