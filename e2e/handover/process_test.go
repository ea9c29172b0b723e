// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ebpm/ebpm/e2e/kernel"
	"github.com/ebpm/ebpm/manifest"
)

func signalContext(s ...os.Signal) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), s...)
}

// A process is an instance of a release.
type process struct {
	t   testing.TB
	cmd *exec.Cmd

	mu       sync.Mutex
	statuses []manifest.Status
	lines    []string // of stderr, but statuses
	gone     chan struct{}
	err      error
}

// revision counts the instances of all tests.
var revision atomic.Uint64

// A release is what its instances have in common.
type release struct {
	dir   string
	tally *tally
	// more are further words for ecli before the package.
	more []string
	// bare is true of packages that have not the programs of load.bpf.c.
	bare bool
}

func newRelease(t testing.TB, out *tally) *release {
	return &release{dir: filepath.Join(t.TempDir(), "release"), tally: out}
}

// places are where the programs of load.bpf.c are attached.
func places() []string {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	return []string{
		"by_uprobe=" + exe + ":" + offsetOf(probed),
		"by_multi=" + exe + ":" + offsetOf(probed),
		"by_sleepable=" + exe + ":" + offsetOf(probedSleepable),
		"by_connect4=" + cgroup, "by_cgroup_skb=" + cgroup, "by_sysctl=" + cgroup, "by_setsockopt=" + cgroup,
		"by_sockops=" + cgroup, "by_sendmsg4=" + cgroup,
	}
}

// start starts the built ecli.
func (r *release) start(t testing.TB, pkg string) *process {
	args := []string{"run", "-j", "--handover", r.dir}
	if r.dir == "" {
		args = args[:2]
	}
	args = append(args, r.more...)
	if !r.bare {
		args = append(args, "--interface", receiver)
		for _, at := range places() {
			args = append(args, "--attach", at)
		}
	}
	return r.run(t, exec.Command(filepath.Join(bin, "ecli"), append(args, pkg)...))
}

// startStepped starts an instance that ends itself at a step.
func (r *release) startStepped(t testing.TB, pkg string, at int, env ...string) *process {
	cmd := exec.Command("/proc/self/exe", append([]string{r.dir, pkg, receiver}, places()...)...)
	return r.run(t, cmd, append(env, fmt.Sprintf("%s=%d", stepEnv, at))...)
}

func (r *release) run(t testing.TB, cmd *exec.Cmd, env ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, gone: make(chan struct{})}
	cmd.Env = append(os.Environ(), fmt.Sprintf("EBPM_REVISION=%d", revision.Add(1)))
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout = r.tally.in
	r.tally.starts.Add(1)
	// A test that is killed leaves nobody.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		// The signal comes at the end of the thread that started it: this one lives as
		// long as the process.
		lockThread()
		started <- cmd.Start()
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			if s, ok := manifest.DecodeStatus(lines.Bytes()); ok {
				p.statuses = append(p.statuses, s)
			} else {
				p.lines = append(p.lines, lines.Text())
			}
			p.mu.Unlock()
		}
		p.err = cmd.Wait()
		close(p.gone)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.gone
	})
	return p
}

func (p *process) handover() manifest.Handover {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range slices.Backward(p.statuses) {
		if s.Handover != nil {
			return *s.Handover
		}
	}
	return manifest.Handover{}
}

// moved reports whether the process has ever taken over from another one, or has
// been taken over from.
func (p *process) moved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.statuses, func(s manifest.Status) bool {
		return s.Handover != nil && (s.Handover.Milliseconds > 0 || s.Handover.Role == manifest.RoleStandby)
	})
}

// attached reports whether the process has attached its programs.
func (p *process) attached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.statuses, func(s manifest.Status) bool { return s.Event == manifest.StatusAttached })
}

// last is what the process has said last of its programs.
func (p *process) last() manifest.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.statuses) == 0 {
		return manifest.Status{}
	}
	return p.statuses[len(p.statuses)-1]
}

func (p *process) role() string { return p.handover().Role }

// goesOn reports whether the process has done all that it does after the end of its
// successor.
func (p *process) goesOn() bool {
	return p.role() == manifest.RoleCurrent && strings.Contains(p.text(), "this one goes on")
}

// text is what the process has said.
func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

func (p *process) ended() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// signal sends a signal to a process that may have ended.
func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.gone
}

// end ends the process as users do.
func (p *process) end() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if !within(20*time.Second, p.ended) {
		p.t.Fatalf("it does not end\n%s", p.text())
	}
	if p.err != nil {
		p.t.Errorf("end: %v\n%s", p.err, p.text())
	}
}

// within waits for a condition.
func within(d time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(d); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// waitRole waits until the process has a role.
func (p *process) waitRole(role string) {
	p.t.Helper()
	ok := within(60*time.Second, func() bool { return p.role() == role || p.ended() })
	if !ok || p.role() != role {
		p.t.Fatalf("it is not %s but %q, ended: %v\n%s", role, p.role(), p.ended(), p.text())
	}
}

// kernelBefore is what the kernel holds now; the function that it returns fails the
// test when there is more at the end.
func kernelBefore(t testing.TB) func() {
	t.Helper()
	before, err := kernel.List()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := leftOver(before); err != nil {
			t.Error(err)
		}
	}
}

// leftOver waits until what is in the kernel now and was not before is gone. What
// others put there meanwhile is not looked at, so nobody of the test may live.
func leftOver(before kernel.Objects) error {
	// Who lists maps at the moment in which a program array dies keeps it for ever:
	// the first look is late.
	time.Sleep(200 * time.Millisecond)
	now, err := kernel.List()
	if err != nil {
		return err
	}
	left := now.Minus(before)
	// Other tests of handovers on this machine, whose objects have the same names, end
	// within that time.
	within(90*time.Second, func() bool {
		time.Sleep(100 * time.Millisecond)
		if now, err = kernel.List(); err != nil {
			return true
		}
		left = left.Minus(left.Minus(now))
		return left.Empty()
	})
	if err != nil {
		return err
	}
	return ours(left)
}
