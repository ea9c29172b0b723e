// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	bridgeName = "ebpm0"
	// bridgeMAC is fixed: a bridge else takes the lowest address of its ports
	// and changes it when one is added, which neighbours notice late.
	bridgeMAC = "02:65:62:70:6d:01"
)

// linkName is the machine's end of a node's interface eth0.
func (n node) linkName() string { return "ebpm-" + n.name }

// namespaceFile is where a namespace ("net", "mnt") of the node is kept alive,
// also while no process is in it. The files are not in /run/netns: `ip netns`
// would leave that folder mounted for ever.
func (c *Cluster) namespaceFile(n node, kind string) string {
	return c.path("ns", n.name+"-"+kind)
}

// enter is the command prefix that runs a program in the node's namespaces.
func (c *Cluster) enter(n node) []string {
	return []string{
		"nsenter",
		"--net=" + c.namespaceFile(n, "net"),
		"--mount=" + c.namespaceFile(n, "mnt"),
		"--",
	}
}

// nodeProgramDir is the folder of a component's programs inside of a node.
func (c *Cluster) nodeProgramDir(component string) string {
	return filepath.Join(nodePrograms, filepath.Base(c.programs.Dir(component)))
}

// NodeExec returns a command that runs a program of this machine in a node's
// network and mount namespaces: it sees the node's interfaces and the node's
// /run, /var/lib and /var/log, and all other files as they are. The caller
// sets its input and output and runs it; Down ends it.
func (c *Cluster) NodeExec(ctx context.Context, nodeName string, argv ...string) (*exec.Cmd, error) {
	for _, n := range nodes {
		if n.name != nodeName {
			continue
		}
		all := append(c.enter(n), argv...)
		cmd := exec.CommandContext(ctx, all[0], all[1:]...)
		cmd.Env = append(os.Environ(), processVariable+"="+n.name+"/exec")
		return cmd, nil
	}
	return nil, fmt.Errorf("run a command on %s: the cluster's nodes are %s", nodeName, strings.Join(c.NodeNames, " and "))
}

// isNamespace says whether a file is a namespace that is kept alive there.
func isNamespace(file string) bool {
	var st unix.Statfs_t
	return unix.Statfs(file, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// isMountPoint says whether something is mounted at path.
func isMountPoint(path string) (bool, error) {
	mounts, err := mountsBelow(path)
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		if m == path {
			return true, nil
		}
	}
	return false, nil
}

// mountsBelow returns the mount points at and below dir in this process's mount
// namespace, in the order in which they were mounted.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		// Spaces in paths are octal escapes; none of ours has any.
		if point := fields[4]; point == dir || strings.HasPrefix(point, dir+"/") {
			list = append(list, point)
		}
	}
	return list, nil
}

// nodeScript turns a fresh mount namespace into that of a node. Its arguments
// are the node's own folder and the cache of programs. The namespace is a
// private copy of the machine's; inside it mounts are shared, as on a real
// machine, so that containers may ask for their propagation. /var/lib comes
// last because it hides the node's own folder.
const nodeScript = `set -eu
mount --make-rshared /
mkdir -p "$1/lib/ebpm-programs"
mount --bind "$2" "$1/lib/ebpm-programs"
mount --bind "$1/log" /var/log
mount --bind "$1/run" /run
mount --rbind "$1/lib" /var/lib
`

// ensureNamespaces makes the node's network and mount namespaces.
func (c *Cluster) ensureNamespaces(ctx context.Context, n node) error {
	mnt, net := c.namespaceFile(n, "mnt"), c.namespaceFile(n, "net")
	ready := c.path(n.name, "namespaces-ready")
	if exists(ready) && isNamespace(mnt) && isNamespace(net) {
		return nil
	}
	// Half-made ones are of no use. Nothing runs in them yet.
	for _, file := range []string{mnt, net} {
		if isNamespace(file) {
			if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", file, err)
			}
		}
	}
	dir := c.path("ns")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// A mount namespace can only be kept in a file on a private mount.
	if mounted, err := isMountPoint(dir); err != nil {
		return err
	} else if !mounted {
		if err := unix.Mount("ebpm-cluster", dir, "tmpfs", 0, "mode=0700,size=1m"); err != nil {
			return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mount at %s private: %w", dir, err)
	}
	for _, file := range []string{mnt, net} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return err
		}
	}
	for _, sub := range []string{"lib", "log", "run"} {
		if err := os.MkdirAll(c.path(n.name, sub), 0o755); err != nil {
			return err
		}
	}
	if err := quiet(ctx, "unshare", "--net="+net, "--mount="+mnt, "--propagation", "private", "--",
		"sh", "-c", nodeScript, "sh", c.path(n.name), c.programs.cache); err != nil {
		return fmt.Errorf("make the namespaces of %s: %w", n.name, err)
	}
	return os.WriteFile(ready, nil, 0o600)
}

// ensureBridge makes the bridge with the machine's address.
func (c *Cluster) ensureBridge(ctx context.Context) error {
	if !linkExists(bridgeName) {
		if err := quiet(ctx, "ip", "link", "add", bridgeName, "address", bridgeMAC, "type", "bridge"); err != nil {
			return err
		}
	}
	if err := quiet(ctx, "ip", "addr", "replace", c.Networks.Host().String()+"/24", "dev", bridgeName); err != nil {
		return err
	}
	return quiet(ctx, "ip", "link", "set", bridgeName, "up")
}

// ensureLink connects the node to the bridge, and routes its Pods' addresses.
func (c *Cluster) ensureLink(ctx context.Context, n node) error {
	if !linkExists(n.linkName()) {
		if err := quiet(ctx, "ip", "link", "add", n.linkName(), "type", "veth", "peer", "name", "eth0", "netns", c.namespaceFile(n, "net")); err != nil {
			return err
		}
	}
	address := c.Networks.Node(n.index).String()
	commands := [][]string{
		{"ip", "link", "set", n.linkName(), "master", bridgeName, "up"},
		{"ip", "route", "replace", c.Networks.PodRange(n.index).String(), "via", address, "dev", bridgeName},
	}
	inside := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "addr", "replace", address + "/24", "dev", "eth0"},
		{"ip", "link", "set", "eth0", "up"},
		{"ip", "route", "replace", "default", "via", c.Networks.Host().String()},
		{"sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"},
	}
	// The nodes share the bridge: they reach each other's Pods without the
	// machine forwarding anything.
	for _, other := range nodes {
		if other != n {
			inside = append(inside, []string{"ip", "route", "replace", c.Networks.PodRange(other.index).String(), "via", c.Networks.Node(other.index).String()})
		}
	}
	for _, command := range inside {
		commands = append(commands, append(c.enter(n), command...))
	}
	for _, command := range commands {
		if err := quiet(ctx, command[0], command[1:]...); err != nil {
			return fmt.Errorf("connect %s: %w", n.name, err)
		}
	}
	return nil
}

func linkExists(name string) bool {
	return exists("/sys/class/net/" + name)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// writeNodeFiles writes the configuration of the node's programs into the
// folders that the node sees as /var/lib.
func (c *Cluster) writeNodeFiles(n node) error {
	lib := func(nodePath string, elem ...string) string {
		return filepath.Join(append([]string{c.path(n.name, "lib"), strings.TrimPrefix(nodePath, "/var/lib")}, elem...)...)
	}
	kubelet, err := kubeletConfig(n, c.Networks)
	if err != nil {
		return err
	}
	client, err := c.kubeconfig(n.name, "system:node:"+n.name)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		lib(nodeKubelet, "config.yaml"):                          kubelet,
		lib(nodeKubelet, "kubeconfig"):                           client,
		lib(nodeContainerd, "config.toml"):                       containerdConfig(filepath.Join(c.nodeProgramDir("runc"), "runc")),
		lib(nodeContainerd, "certs.d", c.Registry, "hosts.toml"): hostsConfig(c.Registry),
		lib(nodeCNI, "net.d", "10-pods.conflist"):                cniConfig(c.Networks.PodRange(n.index)),
	}
	for _, name := range []struct{ from, to string }{{"ca.crt", "ca.crt"}, {n.name + "-serving.crt", "kubelet.crt"}, {n.name + "-serving.key", "kubelet.key"}} {
		data, err := os.ReadFile(c.path("pki", name.from))
		if err != nil {
			return err
		}
		files[lib(nodeKubelet, "pki", name.to)] = data
	}
	for file, data := range files {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := writeFile(file, data); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig renders the client configuration of one of the identities in the
// folder of keys.
func (c *Cluster) kubeconfig(identity, user string) ([]byte, error) {
	var parts [3][]byte
	for i, file := range []string{"ca.crt", identity + ".crt", identity + ".key"} {
		data, err := os.ReadFile(c.path("pki", file))
		if err != nil {
			return nil, err
		}
		parts[i] = data
	}
	return kubeconfig(c.server(), user, parts[0], parts[1], parts[2])
}
