// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long is waited for the runners, on a machine that has other things to do.
const (
	attachLimit = 60 * time.Second
	printLimit  = 30 * time.Second
	endLimit    = 30 * time.Second
	// quiet is how long nothing is printed when it is all.
	quiet = 500 * time.Millisecond
	// lag is how far the slower runner may be behind.
	lag = 4 * time.Second
)

// An outcome is what a runner did.
type outcome struct {
	lines  []string
	exit   int
	stderr string
}

// A process is a runner at work.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr output
	attached       *regexp.Regexp
	done           chan struct{} // closed when it has ended
}

// An output may be written and read at the same time.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) lines() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.text.Bytes(), []byte("\n"))
}

// What the runners log once all programs are attached; theirs waits on after it
// failed.
var (
	oursAttached   = regexp.MustCompile(`"event":"attached"`)
	theirsAttached = regexp.MustCompile(`Running ebpf program|panicked at`)
)

func startRunner(ctx context.Context, path string, attached *regexp.Regexp, pkg, format string, args []string) (*process, error) {
	words := []string{"run"}
	if format == "json" {
		words = append(words, "-j")
	}
	p := &process{attached: attached, done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, path, append(append(words, pkg), args...)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the exit code is looked at
	}()
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) ready() bool { return p.ended() || p.attached.MatchString(p.stderr.String()) }

// end stops the runner as Ctrl-C does.
func (p *process) end() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(endLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %s of SIGINT\n%s", p.cmd.Path, endLimit, p.stderr.String())
	}
	return nil
}

// outcome returns what the runner did, the first lines of it where lines is not
// 0.
func (p *process) outcome(lines int) outcome {
	o := outcome{exit: p.cmd.ProcessState.ExitCode(), stderr: p.stderr.String()}
	for line := range strings.Lines(p.stdout.String()) {
		if lines > 0 && len(o.lines) == lines {
			break
		}
		o.lines = append(o.lines, mask(line))
	}
	return o
}

var clock = regexp.MustCompile(`^\d\d:\d\d:\d\d `)

// mask replaces the time of a row. That a line has no end stays visible.
func mask(line string) string {
	text, whole := strings.CutSuffix(line, "\n")
	if !whole {
		text += "<no newline>"
	}
	return clock.ReplaceAllString(text, "<time>  ")
}

// compare runs all packages through both runners at once, so that all see the
// same events, and returns for each package what ours and theirs did.
func (in *interop) compare(ctx context.Context, s scenario, packages []pack, format string) (_ [][2]outcome, err error) {
	var all []*process
	defer func() {
		for _, p := range all {
			if !p.ended() {
				_ = p.cmd.Process.Kill()
				<-p.done
			}
		}
	}()
	for _, pkg := range packages {
		for _, r := range []struct {
			path     string
			attached *regexp.Regexp
		}{{in.ours, oursAttached}, {in.theirs, theirsAttached}} {
			p, err := startRunner(ctx, r.path, r.attached, pkg.path, format, s.args)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	ready := func() bool {
		for _, p := range all {
			if !p.ready() {
				return false
			}
		}
		return true
	}
	if !until(ctx, attachLimit, ready) {
		return nil, fmt.Errorf("the runners are not all attached after %s:\n%s\n%s", attachLimit, all[0].stderr.String(), all[1].stderr.String())
	}
	lines := s.textLines
	if format == "json" {
		lines = s.jsonLines
	}
	before := all[0].stdout.lines()
	if s.trigger != nil {
		s.trigger()
	}
	awaitLines(ctx, all, lines, before)
	var outcomes [][2]outcome
	for _, p := range all {
		if err := p.end(); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(all); i += 2 {
		outcomes = append(outcomes, [2]outcome{all[i].outcome(lines), all[i+1].outcome(lines)})
	}
	return outcomes, ctx.Err()
}

// awaitLines waits until each process has printed so many lines, or, where lines
// is 0, until all have printed as many and nothing more comes.
func awaitLines(ctx context.Context, all []*process, lines, before int) {
	since, last := time.Now(), -1
	until(ctx, printLimit, func() bool {
		sum, level := 0, true
		for _, p := range all {
			n := p.stdout.lines()
			sum += n
			if lines > 0 {
				level = level && n >= lines
			} else {
				level = level && n == all[0].stdout.lines()
			}
		}
		if sum != last {
			since, last = time.Now(), sum
		}
		silent := time.Since(since)
		switch {
		case lines > 0:
			return level || silent > lag
		case level && all[0].stdout.lines() > before:
			return silent > quiet
		default:
			return silent > lag
		}
	})
}

// until waits for a condition, at most so long.
func until(ctx context.Context, limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); !ok(); {
		if ctx.Err() != nil || time.Now().After(end) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}
