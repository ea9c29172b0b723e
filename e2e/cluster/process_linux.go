// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processVariable is in the environment of each process of the cluster and
// names it ("etcd", "node1/kubelet"). It is what finds a process again: unlike
// a file with a process id it cannot be missing or stale.
const processVariable = "EBPM_CLUSTER_PROCESS"

// process is a long-running program of the cluster.
type process struct {
	name    string // as in processVariable
	node    *node  // nil: in the machine's own namespaces
	program string // the path, for a node that inside of its mount namespace
	args    []string
}

// found is a process of the cluster that runs.
type found struct {
	pid  int
	name string // of its processVariable, which children inherit
	exe  string // the base name of its executable
}

// findProcesses returns the running processes of the cluster, children of the
// long-running ones included, except those inside of containers.
func findProcesses() ([]found, error) { return processesWith(processVariable) }

// processesWith returns the processes that have an environment variable.
func processesWith(variable string) ([]found, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []found
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process that ends meanwhile, and a zombie, has no environment.
		environ, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil {
			continue
		}
		for pair := range bytes.SplitSeq(environ, []byte{0}) {
			name, ok := strings.CutPrefix(string(pair), variable+"=")
			if !ok {
				continue
			}
			exe, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
			if err != nil {
				break
			}
			list = append(list, found{pid, name, filepath.Base(strings.TrimSuffix(exe, " (deleted)"))})
			break
		}
	}
	return list, nil
}

// running returns the process id of p, 0 when it does not run. Children of
// the process are other programs.
func (p process) running(all []found) int {
	for _, f := range all {
		if f.name == p.name && f.exe == filepath.Base(p.program) {
			return f.pid
		}
	}
	return 0
}

// logPath is where the process's output goes.
func (c *Cluster) logPath(p process) string {
	return c.path("log", strings.ReplaceAll(p.name, "/", "-")+".log")
}

// start runs p in a session of its own, so that it outlives this process and
// its terminal.
func (c *Cluster) start(p process) error {
	if err := os.MkdirAll(c.path("log"), 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(c.logPath(p), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := append([]string{p.program}, p.args...)
	path := []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	if p.node != nil {
		argv = append(c.enter(*p.node), argv...)
		path = append([]string{c.nodeProgramDir("containerd"), c.nodeProgramDir("runc")}, path...)
	}
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // It outlives whoever started it.
	cmd.Dir = "/"
	// A clean environment: a proxy of the user's is not for these networks.
	cmd.Env = []string{
		processVariable + "=" + p.name,
		"PATH=" + strings.Join(path, ":"),
		"HOME=/root",
		"LANG=C.UTF-8",
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	// Where this process lives on, an ended child must not stay a zombie. Its
	// log says how it ended.
	go func() { _ = cmd.Wait() }()
	return nil
}

// ensure starts p unless it runs, and reports whether it did.
func (c *Cluster) ensure(p process) (started bool, err error) {
	all, err := findProcesses()
	if err != nil {
		return false, err
	}
	if p.running(all) != 0 {
		return false, nil
	}
	return true, c.start(p)
}

// stop ends the process that p names and waits until it is gone.
func (c *Cluster) stop(ctx context.Context, p process) error {
	return endProcesses(ctx, func() ([]int, error) {
		all, err := findProcesses()
		if pid := p.running(all); pid != 0 {
			return []int{pid}, err
		}
		return nil, err
	}, 5*time.Second)
}

// endProcesses sends SIGTERM to what list returns and, once patience is over,
// SIGKILL, until list returns nothing.
func endProcesses(ctx context.Context, list func() ([]int, error), patience time.Duration) error {
	asked := map[int]bool{}
	begin := time.Now()
	for {
		pids, err := list()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		kill := time.Since(begin) > patience
		for _, pid := range pids {
			signal := syscall.SIGTERM
			if kill {
				signal = syscall.SIGKILL
			} else if asked[pid] {
				continue
			}
			asked[pid] = true
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		if time.Since(begin) > patience+20*time.Second {
			return fmt.Errorf("processes %v do not end", pids)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// tail returns the end of a log for an error message.
func tail(file string, lines int) string {
	const most = 16 << 10
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
