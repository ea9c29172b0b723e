// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var errOtherVersions = errors.New("a cluster of other versions is running: run `make cluster-down` first")

// startTimeout is how long one program may take until it answers. A small
// machine that also compiles needs a few seconds.
const startTimeout = 2 * time.Minute

// kubeletSysctls are the kernel settings that a kubelet changes. Down puts the
// old values back.
var kubeletSysctls = []string{
	"vm/overcommit_memory",
	"vm/panic_on_oom",
	"kernel/panic",
	"kernel/panic_on_oops",
	"kernel/keys/root_maxkeys",
	"kernel/keys/root_maxbytes",
}

// Up makes sure that the cluster runs and returns it. It installs and builds
// what is missing, starts what does not run, and waits until both nodes are
// Ready; on a cluster that is up it only looks. What an earlier Up left
// unfinished it finishes, what is left from before the machine's last start it
// removes first. It needs root. Progress goes to log; when it fails, log also
// says what is left and how to go on.
func Up(ctx context.Context, log io.Writer) (_ *Cluster, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("start the cluster: %w", errNotRoot)
	}
	if err := Deps(ctx, log); err != nil {
		return nil, err
	}
	programs, err := Build(ctx, log)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	c, err := up(ctx, log, programs)
	if err != nil {
		if left, listErr := leftovers(); listErr == nil && len(left) > 0 && !errors.Is(err, errOtherVersions) {
			fmt.Fprintf(log, "the cluster is not up; these parts of it are left: %s\nrun `make cluster-up` again to finish it, or `make cluster-down` to remove them\n", strings.Join(left, ", "))
		}
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	return c, nil
}

func up(ctx context.Context, log io.Writer, programs *Programs) (*Cluster, error) {
	begin := time.Now()
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	s, err := readState(stateDir)
	if err != nil {
		return nil, err
	}
	switch {
	case s == nil:
		// Parts without a state are those of a cluster whose start or removal
		// was cut off.
		if left, err := leftovers(); err != nil {
			return nil, err
		} else if len(left) > 0 {
			fmt.Fprintf(log, "removing what is left of an earlier cluster: %s\n", strings.Join(left, ", "))
			if err := down(ctx, nil); err != nil {
				return nil, err
			}
		}
	case s.BootID != boot:
		fmt.Fprintln(log, "the machine was started anew since the cluster was: removing what is left of it")
		s.Mounts, s.Sysctls = nil, nil // gone with the old kernel
		if err := down(ctx, s); err != nil {
			return nil, err
		}
		s = nil
	case !maps.Equal(s.Programs, programs.keys):
		return nil, errOtherVersions
	}
	if s == nil {
		if s, err = newState(ctx, boot, programs); err != nil {
			return nil, err
		}
	}
	c := newCluster(stateDir, s)
	started, err := c.converge(ctx, log)
	if err != nil {
		return nil, err
	}
	if started == 0 {
		fmt.Fprintf(log, "the cluster is up: both nodes are Ready, registry at %s\n", c.Registry)
	} else {
		fmt.Fprintf(log, "the cluster is up after %.1f s: both nodes are Ready, registry at %s\n", time.Since(begin).Seconds(), c.Registry)
	}
	return c, nil
}

// Open returns the cluster that is up on this machine. It only looks whether
// all of its programs run, and fails when one does not.
func Open() (*Cluster, error) {
	c, err := open()
	if err != nil {
		return nil, err
	}
	all, err := findProcesses()
	if err != nil {
		return nil, fmt.Errorf("open the cluster: %w", err)
	}
	for _, p := range c.processes() {
		if p.running(all) == 0 {
			return nil, fmt.Errorf("open the cluster: %s does not run; start it with `make cluster-up`", p.name)
		}
	}
	return c, nil
}

// open returns the cluster that was started on this machine, in whatever
// state it is.
func open() (*Cluster, error) {
	s, err := readState(stateDir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("open the cluster: %w (it belongs to root)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the cluster: %w", err)
	}
	if s == nil {
		return nil, errors.New("open the cluster: none is up; start one with `make cluster-up`")
	}
	return newCluster(stateDir, s), nil
}

// newState chooses the addresses and writes down what Down has to restore,
// before anything is changed.
func newState(ctx context.Context, boot string, programs *Programs) (*state, error) {
	s := &state{BootID: boot, Cache: programs.cache, Programs: programs.keys, Sysctls: map[string]string{}}
	routes, err := exec.CommandContext(ctx, "ip", "-json", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	addresses, err := exec.CommandContext(ctx, "ip", "-json", "-4", "addr").Output()
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	taken, err := parseRoutes(routes)
	if err != nil {
		return nil, err
	}
	more, err := parseAddresses(addresses)
	if err != nil {
		return nil, err
	}
	taken = append(taken, more...)
	if resolv, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		taken = append(taken, parseNameservers(resolv)...)
	}
	if s.Networks, err = chooseNetworks(taken); err != nil {
		return nil, err
	}
	for _, name := range kubeletSysctls {
		value, err := os.ReadFile("/proc/sys/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.Sysctls[name] = strings.TrimSpace(string(value))
	}
	for _, m := range kernelMounts {
		mounted, err := isMountPoint(m.point)
		if err != nil {
			return nil, err
		}
		if !mounted {
			s.Mounts = append(s.Mounts, m.point)
		}
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	return s, s.write(stateDir)
}

// kernelMounts are the file systems that eBPF programs need and that a small
// machine may not have mounted.
var kernelMounts = []struct{ point, fstype, options string }{
	{"/sys/kernel/tracing", "tracefs", ""},
	{"/sys/fs/bpf", "bpf", "mode=0700"},
}

// converge takes the cluster from whatever state it is in to running, and
// returns how many programs it had to start.
func (c *Cluster) converge(ctx context.Context, log io.Writer) (started int, err error) {
	for _, m := range kernelMounts {
		mounted, err := isMountPoint(m.point)
		if err != nil {
			return 0, err
		}
		if !mounted {
			if err := unix.Mount(m.fstype, m.point, m.fstype, 0, m.options); err != nil {
				return 0, fmt.Errorf("mount %s at %s: %w", m.fstype, m.point, err)
			}
		}
	}
	if err := c.writeFiles(); err != nil {
		return 0, err
	}
	if err := c.ensureBridge(ctx); err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if err := ensureCgroup(n); err != nil {
			return 0, err
		}
		if err := c.ensureNamespaces(ctx, n); err != nil {
			return 0, err
		}
		if err := c.ensureLink(ctx, n); err != nil {
			return 0, err
		}
		if err := c.writeNodeFiles(n); err != nil {
			return 0, err
		}
	}

	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(log, "  %s (%.1f s)\n", fmt.Sprintf(format, args...), time.Since(begin).Seconds())
	}
	run := func(processes ...process) error {
		for _, p := range processes {
			did, err := c.ensure(p)
			if err != nil {
				return err
			}
			if did {
				started++
				say("started %s", p.name)
			}
		}
		return nil
	}
	// What does not need the API server starts beside it.
	if err := run(c.etcd(), c.registry()); err != nil {
		return started, err
	}
	for _, n := range nodes {
		if err := run(c.containerd(n)); err != nil {
			return started, err
		}
	}
	if err := c.wait(ctx, c.etcd(), c.etcdHealthy); err != nil {
		return started, err
	}
	if err := run(c.apiserver()); err != nil {
		return started, err
	}
	for _, n := range nodes {
		if err := c.wait(ctx, c.containerd(n), func(ctx context.Context) error { return c.ensurePauseImage(ctx, n) }); err != nil {
			return started, err
		}
	}
	if err := c.wait(ctx, c.apiserver(), c.apiserverReady); err != nil {
		return started, err
	}
	if err := run(c.controllerManager(), c.scheduler()); err != nil {
		return started, err
	}
	for _, n := range nodes {
		if err := run(c.kubelet(n)); err != nil {
			return started, err
		}
	}
	for _, n := range nodes {
		if err := c.wait(ctx, c.kubelet(n), func(ctx context.Context) error { return c.kubeletHealthy(ctx, n) }); err != nil {
			return started, err
		}
	}
	if err := c.wait(ctx, c.kubelet(nodes[0]), c.nodesReady); err != nil {
		return started, err
	}
	// The controller manager works when Pods can be made in a new namespace.
	if err := c.wait(ctx, c.controllerManager(), c.serviceAccountExists); err != nil {
		return started, err
	}
	if err := c.wait(ctx, c.registry(), c.registryHealthy); err != nil {
		return started, err
	}
	return started, c.wait(ctx, c.scheduler(), func(context.Context) error { return nil })
}

// writeFiles writes what the machine's own programs read.
func (c *Cluster) writeFiles() error {
	if err := writeKeys(c.path("pki"), c.Networks, c.NodeNames); err != nil {
		return fmt.Errorf("write the cluster's keys: %w", err)
	}
	for file, user := range map[string]string{
		"admin":                   "kubernetes-admin",
		"kube-controller-manager": "system:kube-controller-manager",
		"kube-scheduler":          "system:kube-scheduler",
	} {
		data, err := c.kubeconfig(file, user)
		if err != nil {
			return err
		}
		target := c.path(file + ".kubeconfig")
		if file == "admin" {
			target = c.KubeconfigPath
		}
		if err := writeFile(target, data); err != nil {
			return err
		}
	}
	if err := writeFile(c.path("registry.yaml"), registryConfig(c.path("registry"), c.Registry)); err != nil {
		return err
	}
	if err := writePauseImage(c.path("pause.tar"), filepath.Join(c.programs.Dir("pause"), "pause")); err != nil {
		return err
	}
	// Only these two belong into a user's PATH.
	for program, component := range map[string]string{"kubectl": "kubernetes", "ctr": "containerd"} {
		link := c.path("bin", program)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return err
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(filepath.Join(c.programs.Dir(component), program), link); err != nil {
			return err
		}
	}
	return nil
}

// processes are all long-running programs in the order of their start.
func (c *Cluster) processes() []process {
	list := []process{c.etcd(), c.registry(), c.apiserver(), c.controllerManager(), c.scheduler()}
	for _, n := range nodes {
		list = append(list, c.containerd(n), c.kubelet(n))
	}
	return list
}

func (c *Cluster) program(component, name string) string {
	return filepath.Join(c.programs.Dir(component), name)
}

func (c *Cluster) pki(file string) string { return c.path("pki", file) }

// etcd listens on the bridge, where no other program of the machine can have
// its port, and lets nobody in without a certificate of its own authority.
func (c *Cluster) etcd() process {
	client := c.etcdURL()
	peer := "https://" + netip.AddrPortFrom(c.Networks.Host(), 2380).String()
	return process{name: "etcd", program: c.program("etcd", "etcd"), args: []string{
		"--name=ebpm",
		"--data-dir=" + c.path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=ebpm=" + peer,
		"--cert-file=" + c.pki("etcd.crt"),
		"--key-file=" + c.pki("etcd.key"),
		"--trusted-ca-file=" + c.pki("etcd-ca.crt"),
		"--client-cert-auth",
		"--peer-cert-file=" + c.pki("etcd.crt"),
		"--peer-key-file=" + c.pki("etcd.key"),
		"--peer-trusted-ca-file=" + c.pki("etcd-ca.crt"),
		"--peer-client-cert-auth",
		// A reboot ends the cluster anyway.
		"--unsafe-no-fsync",
	}}
}

func (c *Cluster) etcdURL() string {
	return "https://" + netip.AddrPortFrom(c.Networks.Host(), 2379).String()
}

func (c *Cluster) apiserver() process {
	host := c.Networks.Host().String()
	return process{name: "kube-apiserver", program: c.program("kubernetes", "kube-apiserver"), args: []string{
		"--bind-address=" + host,
		"--advertise-address=" + host,
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--etcd-servers=" + c.etcdURL(),
		"--etcd-cafile=" + c.pki("etcd-ca.crt"),
		"--etcd-certfile=" + c.pki("etcd-client.crt"),
		"--etcd-keyfile=" + c.pki("etcd-client.key"),
		"--client-ca-file=" + c.pki("ca.crt"),
		"--tls-cert-file=" + c.pki("apiserver.crt"),
		"--tls-private-key-file=" + c.pki("apiserver.key"),
		"--kubelet-certificate-authority=" + c.pki("ca.crt"),
		"--kubelet-client-certificate=" + c.pki("kubelet-client.crt"),
		"--kubelet-client-key=" + c.pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + c.pki("front-proxy-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.pki("sa.pub"),
		"--service-account-signing-key-file=" + c.pki("sa.key"),
		"--service-cluster-ip-range=" + c.Networks.Services.String(),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
	}}
}

func (c *Cluster) controllerManager() process {
	config := c.path("kube-controller-manager.kubeconfig")
	return process{name: "kube-controller-manager", program: c.program("kubernetes", "kube-controller-manager"), args: []string{
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--bind-address=" + c.Networks.Host().String(),
		"--tls-cert-file=" + c.pki("kube-controller-manager.crt"),
		"--tls-private-key-file=" + c.pki("kube-controller-manager.key"),
		"--root-ca-file=" + c.pki("ca.crt"),
		"--cluster-signing-cert-file=" + c.pki("ca.crt"),
		"--cluster-signing-key-file=" + c.pki("ca.key"),
		"--service-account-private-key-file=" + c.pki("sa.key"),
		"--use-service-account-credentials=true",
		"--leader-elect=false",
	}}
}

func (c *Cluster) scheduler() process {
	config := c.path("kube-scheduler.kubeconfig")
	return process{name: "kube-scheduler", program: c.program("kubernetes", "kube-scheduler"), args: []string{
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--bind-address=" + c.Networks.Host().String(),
		"--tls-cert-file=" + c.pki("kube-scheduler.crt"),
		"--tls-private-key-file=" + c.pki("kube-scheduler.key"),
		"--leader-elect=false",
	}}
}

func (c *Cluster) registry() process {
	return process{name: "registry", program: c.program("registry", "registry"), args: []string{"serve", c.path("registry.yaml")}}
}

func (c *Cluster) containerd(n node) process {
	return process{name: n.name + "/containerd", node: &n, program: path.Join(c.nodeProgramDir("containerd"), "containerd"), args: []string{
		"--config", path.Join(nodeContainerd, "config.toml"),
	}}
}

func (c *Cluster) kubelet(n node) process {
	return process{name: n.name + "/kubelet", node: &n, program: path.Join(c.nodeProgramDir("kubernetes"), "kubelet"), args: []string{
		"--config=" + path.Join(nodeKubelet, "config.yaml"),
		"--kubeconfig=" + path.Join(nodeKubelet, "kubeconfig"),
		"--root-dir=" + nodeKubelet,
		"--cert-dir=" + path.Join(nodeKubelet, "pki"),
		"--hostname-override=" + n.name,
		"--node-ip=" + c.Networks.Node(n.index).String(),
	}}
}

// wait polls until ready returns nil. It gives up when the program ends or the
// time is over, with the end of the program's log.
func (c *Cluster) wait(ctx context.Context, p process, ready func(context.Context) error) error {
	begin := time.Now()
	deadline := begin.Add(startTimeout)
	for {
		err := ready(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all, findErr := findProcesses()
		if findErr != nil {
			return findErr
		}
		alive := p.running(all) != 0 || c.entering(p, all)
		switch {
		case err == nil && alive:
			return nil
		case !alive && time.Since(begin) > execTime:
			return fmt.Errorf("%s ended; the end of %s:\n%s", p.name, c.logPath(p), tail(c.logPath(p), 15))
		case time.Now().After(deadline):
			return fmt.Errorf("wait for %s: %w; the end of %s:\n%s", p.name, err, c.logPath(p), tail(c.logPath(p), 15))
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// execTime is how long a program that was started may not be found yet, because
// its process is between fork and exec.
const execTime = time.Second

// entering says whether the program is still on its way into its node's
// namespaces.
func (c *Cluster) entering(p process, all []found) bool {
	for _, f := range all {
		if f.name == p.name && f.exe == "nsenter" {
			return true
		}
	}
	return false
}

func (c *Cluster) etcdHealthy(ctx context.Context) error {
	client, err := c.client("etcd-ca", "etcd-client")
	if err != nil {
		return err
	}
	return get(ctx, client, c.etcdURL()+"/health", nil)
}

func (c *Cluster) apiserverReady(ctx context.Context) error {
	client, err := c.client("ca", "admin")
	if err != nil {
		return err
	}
	return get(ctx, client, c.server()+"/readyz", nil)
}

func (c *Cluster) kubeletHealthy(ctx context.Context, n node) error {
	client, err := c.client("ca", "kubelet-client")
	if err != nil {
		return err
	}
	return get(ctx, client, fmt.Sprintf("https://%s:10250/healthz", c.Networks.Node(n.index)), nil)
}

func (c *Cluster) serviceAccountExists(ctx context.Context) error {
	client, err := c.client("ca", "admin")
	if err != nil {
		return err
	}
	return get(ctx, client, c.server()+"/api/v1/namespaces/default/serviceaccounts/default", nil)
}

func (c *Cluster) registryHealthy(ctx context.Context) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return get(ctx, client, "http://"+c.Registry+"/v2/", nil)
}

// StopRegistry ends the registry, as a registry that is down for its users;
// what it holds is kept.
func (c *Cluster) StopRegistry(ctx context.Context) error {
	if err := c.stop(ctx, c.registry()); err != nil {
		return fmt.Errorf("stop the registry: %w", err)
	}
	return nil
}

// StartRegistry starts the registry unless it runs, and waits until it
// answers.
func (c *Cluster) StartRegistry(ctx context.Context) error {
	if _, err := c.ensure(c.registry()); err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	return c.wait(ctx, c.registry(), c.registryHealthy)
}

// ContainerdSocket is the socket of a node's containerd as this machine sees
// it: `ctr -a SOCKET -n k8s.io images ls` lists the node's images.
func (c *Cluster) ContainerdSocket(nodeName string) string {
	return c.path(nodeName, "run", "containerd", "containerd.sock")
}

// NodeLogs is the folder of this machine that a node has as /var/log.
func (c *Cluster) NodeLogs(nodeName string) string { return c.path(nodeName, "log") }

// ensurePauseImage imports the image of the sandboxes into a node.
func (c *Cluster) ensurePauseImage(ctx context.Context, n node) error {
	socket := c.ContainerdSocket(n.name)
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	ctr := c.program("containerd", "ctr")
	images, err := exec.CommandContext(ctx, ctr, "-a", socket, "-n", "k8s.io", "images", "ls", "-q").Output()
	if err != nil {
		return fmt.Errorf("list the images of %s: %w", n.name, err)
	}
	for image := range strings.FieldsSeq(string(images)) {
		if image == pauseImage {
			return nil
		}
	}
	if err := quiet(ctx, ctr, "-a", socket, "-n", "k8s.io", "images", "import", c.path("pause.tar")); err != nil {
		return fmt.Errorf("import %s into %s: %w", pauseImage, n.name, err)
	}
	return nil
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}
