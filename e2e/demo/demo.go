// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package demo shows the whole of ebpm: live events on this machine, a build in
// a cluster, a deploy to every node, an upgrade, a rollback, and an end that
// leaves the kernel as it was. Each command that it shows is one that a user
// types, and each thing that it says is checked first.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpm/ebpm/e2e/cluster"
	"github.com/ebpm/ebpm/e2e/kernel"
)

// Demo is one run of the demo.
type Demo struct {
	// Out takes the transcript, Log the progress of what takes long.
	Out, Log io.Writer

	transcript bytes.Buffer
	start      time.Time
	root       string // of the repository
	work       string // a folder that is removed at the end
	env        []string
	cluster    *cluster.Cluster // nil for the user's own
	nodes      []string
}

// OwnCluster reports whether the demo ran on the cluster that it starts itself.
func (d *Demo) OwnCluster() bool { return d.cluster != nil }

// Transcript is what a reader of the demo saw on Out.
func (d *Demo) Transcript() string { return d.transcript.String() }

func (d *Demo) printf(format string, args ...any) {
	fmt.Fprintf(io.MultiWriter(d.Out, &d.transcript), format, args...)
}

// step prints a headline with the time since the start.
func (d *Demo) step(format string, args ...any) {
	d.printf("\n[%4.0f s] %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// Run runs the demo. It needs root where it runs programs on this machine.
func (d *Demo) Run(ctx context.Context) (err error) {
	d.start = time.Now()
	if d.root, err = repository(ctx); err != nil {
		return err
	}
	if d.work, err = os.MkdirTemp("", "ebpm-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.work)) }()
	d.env = append(os.Environ(), "PATH="+filepath.Join(d.root, "bin")+":"+os.Getenv("PATH"))

	// The cluster takes long where it was never built: it starts first.
	up := d.startCluster(ctx)
	if err := d.make(ctx, "build"); err != nil {
		return err
	}
	if err := d.laptop(ctx); err != nil {
		return err
	}
	if err := d.make(ctx, "image-programs"); err != nil {
		return err
	}
	c := <-up
	if c.err != nil {
		return c.err
	}
	d.cluster = c.cluster
	if err := d.enterCluster(ctx); err != nil {
		return err
	}
	for _, act := range []func(context.Context) error{d.builds, d.release} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	d.end()
	return nil
}

// make runs a target of the Makefile.
func (d *Demo) make(ctx context.Context, target string) error {
	cmd := exec.CommandContext(ctx, "make", "-s", target)
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.root, d.Log, d.Log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	return nil
}

func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

type clusterUp struct {
	cluster *cluster.Cluster
	err     error
}

// startCluster brings the demo's own cluster up in the background, unless the
// user named one.
func (d *Demo) startCluster(ctx context.Context) <-chan clusterUp {
	up := make(chan clusterUp, 1)
	if os.Getenv("KUBECONFIG") != "" && os.Getenv("EBPM_REGISTRY") != "" {
		if own, err := cluster.Open(); err != nil || own.KubeconfigPath != os.Getenv("KUBECONFIG") {
			up <- clusterUp{}
			return up
		}
	}
	go func() {
		c, err := cluster.Up(ctx, d.Log)
		up <- clusterUp{cluster: c, err: err}
	}()
	return up
}

// laptop shows the package on this machine, without any cluster.
func (d *Demo) laptop(ctx context.Context) error {
	if err := cluster.MountTracefs(d.Log); err != nil {
		return err
	}
	d.step("On this machine: compile a source and print its events, five of them here.")
	mark := filepath.Join(d.work, "hello-laptop")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := d.command(ctx, "ebpm", "run", "examples/opensnoop")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	lines, err := startLines(cmd)
	if err != nil {
		return err
	}
	d.printf("$ ebpm run examples/opensnoop\n")
	const shown = 5
	printed, marked := 0, false
	for line := range lines {
		header := strings.HasPrefix(line, "TIME")
		if strings.Contains(line, mark) {
			marked = true
		} else if !header && printed >= shown {
			continue
		}
		d.printf("%s\n", line)
		if !header {
			printed++
		}
		if header {
			if err := touch(ctx, mark); err != nil {
				return err
			}
		}
		if marked && printed >= shown {
			break
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	for range lines {
		// What is on its way still comes.
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ebpm run: %w\n%s", err, stderr.String())
	}
	if !marked {
		return fmt.Errorf("ebpm run did not show that %s was opened\n%s", mark, stderr.String())
	}
	return nil
}

// touch makes an event: a process of its own opens a file that does not exist.
func touch(ctx context.Context, path string) error {
	err := exec.CommandContext(ctx, "cat", path).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func (d *Demo) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	for _, dir := range filepath.SplitList(lookup(d.env, "PATH")) {
		if path := filepath.Join(dir, name); isExecutable(path) {
			name = path
			break
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = d.root, d.env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lookup returns the value of a variable; the last of equal names counts.
func lookup(env []string, name string) string {
	value := ""
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// ebpm runs a command, shows it with its result, and returns the result.
func (d *Demo) ebpm(ctx context.Context, args ...string) (string, error) {
	out, err := d.quiet(ctx, args...)
	d.printf("$ ebpm %s\n%s", strings.ReplaceAll(strings.Join(args, " "), d.work+"/", ""), out)
	return out, err
}

// quiet runs ebpm and returns what it printed on stdout.
func (d *Demo) quiet(ctx context.Context, args ...string) (string, error) {
	cmd := d.command(ctx, "ebpm", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("ebpm %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (d *Demo) enterCluster(ctx context.Context) error {
	if d.cluster != nil {
		if err := cluster.PushImages(ctx, d.cluster, filepath.Join(d.root, "bin", "image"), d.Log); err != nil {
			return err
		}
		env, err := d.cluster.Env(filepath.Join(d.root, "bin"))
		if err != nil {
			return err
		}
		d.env = append(os.Environ(), env...)
	}
	out, err := d.command(ctx, "kubectl", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").Output()
	if err != nil {
		return fmt.Errorf("list the nodes of the cluster: %w", err)
	}
	d.nodes = strings.Fields(string(out))
	d.step("A cluster: Kubernetes with %d nodes, and a registry.", len(d.nodes))
	nodes, err := d.command(ctx, "kubectl", "get", "nodes", "-o",
		"custom-columns=NODE:.metadata.name,VERSION:.status.nodeInfo.kubeletVersion,KERNEL:.status.nodeInfo.kernelVersion,RUNTIME:.status.nodeInfo.containerRuntimeVersion").Output()
	if err != nil {
		return fmt.Errorf("list the nodes of the cluster: %w", err)
	}
	d.printf("$ kubectl get nodes -o custom-columns=...\n%s", nodes)
	return nil
}

// newColumn is the change between 1.0.0 and 1.1.0 of the demo's package: who
// the process is a child of.
var newColumn = []struct{ file, old, new string }{
	{"opensnoop.h", "\tint pid;\n", "\tint pid;\n\tint ppid;\n"},
	{"opensnoop.bpf.c", "#include <bpf/bpf_helpers.h>\n", "#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_core_read.h>\n"},
	{"opensnoop.bpf.c", "\te->pid = id >> 32;\n", "\te->pid = id >> 32;\n\te->ppid = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), real_parent, tgid);\n"},
}

// changeSource copies the example and makes the change.
func (d *Demo) changeSource() (string, error) {
	dir := filepath.Join(d.work, "opensnoop")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(d.root, "examples", "opensnoop"))); err != nil {
		return "", err
	}
	for _, change := range newColumn {
		path := filepath.Join(dir, change.file)
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if !bytes.Contains(data, []byte(change.old)) {
			return "", fmt.Errorf("change %s: it has no line %q", change.file, change.old)
		}
		data = bytes.Replace(data, []byte(change.old), []byte(change.new), 1)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (d *Demo) builds(ctx context.Context) error {
	d.step("Build it by a Job in the cluster, which pushes it to the registry; then a changed source.")
	if _, err := d.ebpm(ctx, "build", "examples/opensnoop", "-t", "opensnoop:1.0.0", "--builder", "kubernetes"); err != nil {
		return err
	}
	changed, err := d.changeSource()
	if err != nil {
		return err
	}
	if _, err := d.ebpm(ctx, "build", changed, "-t", "opensnoop:1.1.0", "--builder", "kubernetes"); err != nil {
		return err
	}
	_, err = d.ebpm(ctx, "build", "examples/xdpsyn", "-t", "xdpsyn:1.0.0", "--builder", "kubernetes")
	return err
}

func (d *Demo) release(ctx context.Context) error {
	before, err := kernel.List()
	if err != nil {
		return err
	}
	d.step("Deploy it to every node. An event that one process makes is seen from both: they share a kernel.")
	if _, err := d.ebpm(ctx, "deploy", "opensnoop:1.0.0", "--all"); err != nil {
		return err
	}
	if _, err := d.ebpm(ctx, "list"); err != nil {
		return err
	}
	if err := d.showEvents(ctx, "1.0.0", false); err != nil {
		return err
	}

	d.step("Upgrade: the new column is there on both nodes.")
	if _, err := d.ebpm(ctx, "deploy", "opensnoop:1.1.0"); err != nil {
		return err
	}
	if err := d.showEvents(ctx, "1.1.0", true); err != nil {
		return err
	}
	if _, err := d.ebpm(ctx, "history", "opensnoop"); err != nil {
		return err
	}

	d.step("Roll back: the digest is that of 1.0.0, the column is gone.")
	if _, err := d.ebpm(ctx, "rollback", "opensnoop"); err != nil {
		return err
	}
	if err := d.checkDigest(ctx); err != nil {
		return err
	}
	if err := d.showEvents(ctx, "rollback", false); err != nil {
		return err
	}
	if _, err := d.ebpm(ctx, "status", "opensnoop"); err != nil {
		return err
	}
	if err := d.xdp(ctx); err != nil {
		return err
	}

	d.step("Delete both. The kernel's programs, links and maps are those from before.")
	if _, err := d.ebpm(ctx, "delete", "opensnoop", "xdpsyn"); err != nil {
		return err
	}
	if d.cluster == nil {
		return nil // the kernels are other machines'
	}
	if err := kernel.WaitUntilGone(ctx, before, 30*time.Second); err != nil {
		return err
	}
	d.printf("programs, links and maps: %s, as before\n", before)
	return nil
}

// checkDigest holds the digest that runs against that of the tag 1.0.0.
func (d *Demo) checkDigest(ctx context.Context) error {
	type revision struct {
		Revision int64  `json:"revision"`
		Tag      string `json:"tag"`
		Digest   string `json:"digest"`
		Current  bool   `json:"current"`
	}
	out, err := d.quiet(ctx, "history", "opensnoop", "-o", "json")
	if err != nil {
		return err
	}
	var revisions []revision
	if err := json.Unmarshal([]byte(out), &revisions); err != nil {
		return fmt.Errorf("read the history: %w", err)
	}
	current := slices.IndexFunc(revisions, func(r revision) bool { return r.Current })
	first := slices.IndexFunc(revisions, func(r revision) bool { return r.Tag == "1.0.0" })
	if current < 0 || first < 0 || revisions[current].Digest != revisions[first].Digest {
		return fmt.Errorf("the release does not run the digest of 1.0.0 after the rollback: %s", out)
	}
	return nil
}

// showEvents makes an event and shows how each node saw it.
func (d *Demo) showEvents(ctx context.Context, what string, withColumn bool) error {
	mark := filepath.Join(d.work, "hello-"+what)
	nodes := d.nodes
	if d.cluster != nil {
		if err := touch(ctx, mark); err != nil {
			return err
		}
	} else {
		mark = "" // the nodes are other machines: any event will do
	}
	var header string
	rows := map[string]string{}
	deadline := time.Now().Add(20 * time.Second)
	for len(rows) < len(nodes) {
		out, err := d.quiet(ctx, "logs", "opensnoop")
		if err != nil {
			return err
		}
		for i, line := range strings.Split(out, "\n") {
			if i == 0 {
				header = line
			} else if node, _, ok := strings.Cut(line, " "); ok && strings.Contains(line, mark) {
				if _, seen := rows[node]; !seen {
					rows[node] = line
				}
			}
		}
		if len(rows) < len(nodes) && time.Now().After(deadline) {
			return fmt.Errorf("%d of %d nodes saw that %s was opened: %v", len(rows), len(nodes), mark, rows)
		}
	}
	d.printf("$ cat %s\n$ ebpm logs opensnoop | grep -e NODE -e %[1]s\n%s\n", filepath.Base(mark), header)
	for _, node := range nodes {
		d.printf("%s\n", rows[node])
	}
	if slices.Contains(strings.Fields(header), "PPID") != withColumn {
		return fmt.Errorf("%s: column PPID: %v, want %v (%s)", what, !withColumn, withColumn, header)
	}
	return nil
}

func (d *Demo) xdp(ctx context.Context) error {
	node := d.nodes[0]
	d.step("XDP on one node: who asks that node's own interface for a connection.")
	if _, err := d.ebpm(ctx, "deploy", "xdpsyn:1.0.0", "--node", node, "--interface", "eth0"); err != nil {
		return err
	}
	if d.cluster == nil {
		return nil
	}
	// Of the node's network; its /sys shows that of the machine.
	show, err := d.cluster.NodeExec(ctx, node, "ip", "-o", "link", "show", "eth0")
	if err != nil {
		return err
	}
	link, err := show.Output()
	if err != nil {
		return fmt.Errorf("show eth0 of %s: %w", node, err)
	}
	ifindex, _, _ := strings.Cut(string(link), ":")
	// Somebody asks the node's kubelet for a connection.
	address := d.cluster.Networks.Node(1).String()
	connect := "echo > /dev/tcp/" + address + "/10250"
	type entry struct {
		Node  string `json:"node"`
		Event *struct {
			Ifindex int    `json:"ifindex"`
			Daddr   string `json:"daddr"`
			Dport   int    `json:"dport"`
		} `json:"event"`
	}
	for seen, deadline := false, time.Now().Add(20*time.Second); !seen; {
		if err := exec.CommandContext(ctx, "bash", "-c", connect).Run(); err != nil {
			return fmt.Errorf("%s: %w", connect, err)
		}
		out, err := d.quiet(ctx, "logs", "xdpsyn", "-o", "json")
		if err != nil {
			return err
		}
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			var e entry
			if json.Unmarshal([]byte(line), &e) != nil || e.Event == nil {
				continue
			}
			if e.Node != node || strconv.Itoa(e.Event.Ifindex) != ifindex {
				return fmt.Errorf("a packet of another interface than eth0 (%s) of %s: %s", ifindex, node, line)
			}
			seen = seen || e.Event.Daddr == address && e.Event.Dport == 10250
		}
		if !seen && time.Now().After(deadline) {
			return fmt.Errorf("%s did not report that %s:10250 was asked for a connection", node, address)
		}
	}
	out, err := d.quiet(ctx, "logs", "xdpsyn")
	if err != nil {
		return err
	}
	header, rows, _ := strings.Cut(out, "\n")
	d.printf("$ %s\n$ ebpm logs xdpsyn | grep -e NODE -e ' 10250' | head -2\n%s\n", connect, header)
	for row := range strings.Lines(rows) {
		if strings.Contains(row, " 10250") {
			d.printf("%s", row)
			break
		}
	}
	return nil
}

func (d *Demo) end() {
	d.step("Done.")
	if d.cluster == nil {
		return
	}
	d.printf("The cluster stays up. To play with it:  eval \"$(make -s cluster-env)\"\n" +
		"To stop it:                              make cluster-down\n")
}
