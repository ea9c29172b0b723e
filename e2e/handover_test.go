// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/e2e/kernel"
	"github.com/ebpm/ebpm/manifest"
)

const (
	// loadFirst is what the first thread of the load says to getpriority: others
	// on this kernel may number events by what the sources have.
	loadFirst   = 3100
	loadThreads = 2
	loadHooks   = 3 // the programs of load.bpf.c
)

// loadPackage copies the programs that see numbered events, and makes them those of
// a version.
func loadPackage(t *testing.T, version int) string {
	t.Helper()
	from, dir := filepath.Join(root, "deployer", "ecli", "testdata", "handover"), filepath.Join(t.TempDir(), "load")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"load.bpf.c", "load.h"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join(dir, "load.bpf.c")
	edit(t, source, "#define VERSION 1\n", fmt.Sprintf("#define VERSION %d\n", version))
	edit(t, source, "#define FIRST_THREAD 100\n", fmt.Sprintf("#define FIRST_THREAD %d\n", loadFirst))
	return dir
}

// A load makes numbered events, from 1 on, on threads of its own. Every node sees
// them: they share a kernel.
type load struct {
	sent [loadThreads]atomic.Uint32
	stop context.CancelFunc
	done sync.WaitGroup
}

// events are the numbers of the last ones.
func (l *load) events() (sent [loadThreads]uint32) {
	for thread := range l.sent {
		sent[thread] = l.sent[thread].Load()
	}
	return sent
}

// startLoad makes about perSecond events on each thread.
func startLoad(t *testing.T, perSecond int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for thread := range l.sent {
		l.done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				for range perSecond / 100 {
					_, _ = unix.Getpriority(loadFirst+thread, int(l.sent[thread].Add(1))) // EINVAL
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.done.Wait()
}

// A tally reads what the Pods of a release print on a node, from the kubelet's
// files. It holds those open, so that it also has the end of what a Pod printed
// that has been deleted.
type tally struct {
	glob  string
	files map[uint64]*logFile // by inode
	// seen counts the records, by hook, thread and number.
	seen [loadHooks][loadThreads][]uint8
	// versions counts them by the version of the program.
	versions map[int]int
}

type logFile struct {
	*os.File
	rest []byte
}

func newTally(t *testing.T, node, release string) *tally {
	t.Helper()
	c := &tally{
		glob:  filepath.Join(theCluster.NodeLogs(node), "pods", "ebpm_"+release+"-*", "ecli", "*.log"),
		files: map[uint64]*logFile{}, versions: map[int]int{},
	}
	t.Cleanup(func() {
		for _, f := range c.files {
			_ = f.Close()
		}
	})
	return c
}

// read takes in what was written since the last time.
func (c *tally) read() error {
	names, err := filepath.Glob(c.glob)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has been rotated, and is held by another name
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return errors.Join(err, f.Close())
		}
		if c.files[st.Ino] != nil {
			_ = f.Close()
			continue
		}
		c.files[st.Ino] = &logFile{File: f}
	}
	for _, f := range c.files {
		if err := c.readFile(f); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return nil
}

func (c *tally) readFile(f *logFile) error {
	var b bytes.Buffer
	b.Write(f.rest)
	if _, err := b.ReadFrom(f); err != nil {
		return err
	}
	for {
		line, rest, ok := bytes.Cut(b.Bytes(), []byte("\n"))
		if !ok {
			f.rest = slices.Clone(b.Bytes())
			return nil
		}
		b.Next(b.Len() - len(rest))
		if err := c.take(line); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
}

// take counts a line: TIME STREAM F TEXT.
func (c *tally) take(line []byte) error {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) != 4 || string(fields[2]) != "F" {
		return errors.New("not a whole line of a log")
	}
	if string(fields[1]) != "stdout" || bytes.HasPrefix(fields[3], []byte(`{"`+manifest.StatusKey)) {
		return nil
	}
	var r struct {
		Seq                   uint32
		Hook, Thread, Version int
	}
	if err := json.Unmarshal(fields[3], &r); err != nil {
		return err
	}
	if r.Hook >= loadHooks || r.Thread >= loadThreads {
		return errors.New("not an event of the load")
	}
	seen := &c.seen[r.Hook][r.Thread]
	if more := int(r.Seq) + 1 - len(*seen); more > 0 {
		*seen = append(*seen, make([]uint8, more)...)
	}
	(*seen)[r.Seq]++
	c.versions[r.Version]++
	return nil
}

// compare counts the events that were not printed, and the records that are there
// once more than they should.
func (c *tally) compare(sent [loadThreads]uint32) (missing, doubled int) {
	for hook := range c.seen {
		for thread, n := range sent {
			seen := c.seen[hook][thread]
			missing += max(0, int(n)+1-max(len(seen), 1))
			for seq := 1; seq < len(seen); seq++ {
				switch {
				case seen[seq] > 1:
					doubled += int(seen[seq]) - 1
				case seen[seq] == 0 && seq <= int(n):
					missing++
				}
			}
		}
	}
	return missing, doubled
}

// runner returns the process of a Pod's runner, as this machine counts.
func runner(t *testing.T, pod string) int {
	t.Helper()
	uid := strings.TrimSpace(kubectl(t, "-n", "ebpm", "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"))
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		words, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(words, []byte("ecli\x00run\x00")) {
			continue
		}
		mounts, err := os.ReadFile(filepath.Join(filepath.Dir(file), "mountinfo"))
		if err != nil || !bytes.Contains(mounts, []byte(uid)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("no process of Pod %s", pod)
	return 0
}

// held returns the ids of what a process holds of eBPF: "map 7", "prog 3", "link 4".
func held(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(data)) {
			key, id, _ := strings.Cut(line, ":")
			if kind, ok := strings.CutSuffix(key, "_id"); ok && (kind == "map" || kind == "prog" || kind == "link") {
				ids = append(ids, kind+" "+strings.TrimSpace(id))
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// lives returns those of ids that the kernel has. Maps are not opened: the kernel
// forgets to free a program array that is opened while it goes.
func lives(t *testing.T, ids []string) []string {
	t.Helper()
	now, err := kernel.List()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, id := range now.Maps {
		all[fmt.Sprint("map ", id)] = true
	}
	for _, id := range now.Programs {
		all[fmt.Sprint("prog ", id)] = true
	}
	for _, id := range now.Links {
		all[fmt.Sprint("link ", id)] = true
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !all[id] })
}

// seenMap reads the map `seen` of a runner: what each hook counted of each thread.
func seenMap(t *testing.T, pid int) map[[2]uint32]loadSeen {
	t.Helper()
	for _, id := range held(t, pid) {
		number, ok := strings.CutPrefix(id, "map ")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(n))
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Name != "seen" {
			_ = m.Close()
			continue
		}
		defer func() { _ = m.Close() }()
		counts := map[[2]uint32]loadSeen{}
		var key [2]uint32
		var value loadSeen
		entries := m.Iterate()
		for entries.Next(&key, &value) {
			counts[key] = value
		}
		if err := entries.Err(); err != nil {
			t.Fatal(err)
		}
		return counts
	}
	t.Fatalf("process %d has no map `seen`", pid)
	return nil
}

// loadSeen is struct seen of load.bpf.c.
type loadSeen struct{ Last, Count, Gaps, Again uint64 }

// moved is what `ebpm status` says of the instances of a release.
type moved struct {
	Finished bool
	Nodes    []struct {
		Node, Pod, State string
		Revision         int64
		Handover         *manifest.Handover
		Lost             map[string]uint64
	}
}

// movesUnderLoad is how many moves TestHandoverUnderLoad makes: 10, or what
// EBPM_E2E_MOVES says.
func movesUnderLoad(t *testing.T) int {
	t.Helper()
	text := os.Getenv("EBPM_E2E_MOVES")
	if text == "" {
		return 10
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("EBPM_E2E_MOVES: %v", err)
	}
	return n
}

// Upgrades and rollbacks under load, on both nodes: the Pods print each event once,
// whichever version saw it, and the map that goes along has counted each once.
func TestHandoverUnderLoad(t *testing.T) {
	const name, perSecond = "load", 200
	cleanup(t, name)
	for version := 1; version <= 2; version++ {
		push(t, loadPackage(t, version), fmt.Sprintf("%s:%d.0.0", name, version))
	}
	must(t, "deploy", name+":1.0.0", "--all")

	tallies := map[string]*tally{}
	for _, node := range theCluster.NodeNames {
		tallies[node] = newTally(t, node, name)
	}
	readAll := func() (err error) {
		for node, c := range tallies {
			if readErr := c.read(); readErr != nil {
				err = errors.Join(err, fmt.Errorf("logs of %s: %w", node, readErr))
			}
		}
		return err
	}
	reading, stopReading := context.WithCancel(t.Context())
	read := make(chan error, 1)
	go func() {
		for reading.Err() == nil {
			if err := readAll(); err != nil {
				read <- err
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		read <- nil
	}()
	l := startLoad(t, perSecond)

	var times []float64
	for n := range movesUnderLoad(t) {
		if n%2 == 0 {
			must(t, "deploy", name+":2.0.0")
		} else {
			must(t, "rollback", name)
		}
		s := decode[moved](t, must(t, "status", name, "-o", "json"))
		if !s.Finished || len(s.Nodes) != len(theCluster.NodeNames) {
			t.Fatalf("after move %d: %+v", n+1, s)
		}
		for _, in := range s.Nodes {
			h := in.Handover
			if h == nil || h.Role != manifest.RoleCurrent || h.Way != manifest.Exact || h.Milliseconds <= 0 || !slices.Equal(h.Carried, []string{"seen"}) {
				t.Fatalf("after move %d, %s on %s: %+v", n+1, in.Pod, in.Node, h)
			}
			if len(in.Lost) > 0 {
				t.Errorf("after move %d, %s on %s lost events: %v", n+1, in.Pod, in.Node, in.Lost)
			}
			times = append(times, h.Milliseconds)
		}
	}
	backToStandby(t, name, fmt.Sprintf("%s:%d.0.0", name, 2-movesUnderLoad(t)%2))
	l.end()
	sent := l.events()
	stopReading()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if err := readAll(); err != nil {
			t.Fatal(err)
		}
		var why []string
		for node, c := range tallies {
			missing, doubled := c.compare(sent)
			if doubled > 0 {
				t.Fatalf("%s printed %d events twice", node, doubled)
			}
			if missing > 0 {
				why = append(why, fmt.Sprintf("%s did not print %d events of %v", node, missing, sent))
			}
		}
		return strings.Join(why, ", ")
	})
	for node, c := range tallies {
		if c.versions[1] == 0 || c.versions[2] == 0 {
			t.Errorf("%s printed records by version: %v", node, c.versions)
		}
	}
	slices.Sort(times)
	t.Logf("%v events, each seen by %d programs on %d nodes; moves: median %.0f ms, longest %.0f ms",
		sent, loadHooks, len(tallies), times[len(times)/2], times[len(times)-1])

	s := decode[moved](t, must(t, "status", name, "-o", "json"))
	ids := map[string][]string{}
	for _, in := range s.Nodes {
		pid := runner(t, in.Pod)
		counts := seenMap(t, pid)
		for hook := range loadHooks {
			for thread, n := range sent {
				want := loadSeen{Last: uint64(n), Count: uint64(n)}
				if got := counts[[2]uint32{uint32(hook), uint32(thread)}]; got != want {
					t.Errorf("%s: hook %d counted %+v of thread %d, want %+v", in.Node, hook, got, thread, want)
				}
			}
		}
		if ids[in.Pod] = held(t, pid); len(lives(t, ids[in.Pod])) == 0 {
			t.Errorf("%s holds nothing of eBPF: %v", in.Pod, ids[in.Pod])
		}
	}

	// The end of one Pod takes along what was its own, and another one comes.
	gone := s.Nodes[0].Pod
	kubectl(t, "-n", "ebpm", "delete", "pod", gone)
	waitFreed(t, ids[gone])
	kubectl(t, "-n", "ebpm", "rollout", "status", "daemonset/"+name, "--timeout=2m")
	s = decode[moved](t, must(t, "status", name, "-o", "json"))
	ids = map[string][]string{}
	for _, in := range s.Nodes {
		ids[in.Pod] = held(t, runner(t, in.Pod))
	}
	if len(ids) != len(theCluster.NodeNames) || ids[gone] != nil {
		t.Errorf("after the end of %s: %+v", gone, s)
	}
	must(t, "delete", name)
	for _, of := range ids {
		waitFreed(t, of)
	}
}

// backToStandby rolls an upgrade back while each node has both Pods: the former ones
// go on, and are not started again.
func backToStandby(t *testing.T, name, to string) {
	t.Helper()
	current := func() (pods []string, standbys int) {
		for _, in := range decode[moved](t, must(t, "status", name, "-o", "json")).Nodes {
			if in.Handover != nil && in.Handover.Role == manifest.RoleCurrent {
				pods = append(pods, in.Pod)
			}
			if in.Handover != nil && in.Handover.Role == manifest.RoleStandby {
				standbys++
			}
		}
		slices.Sort(pods)
		return pods, standbys
	}
	before, _ := current()
	must(t, "deploy", to, "--wait=false")
	// Else Kubernetes ends the former Pods within seconds, one node after the other.
	kubectl(t, "-n", "ebpm", "patch", "daemonset", name, "-p", `{"spec":{"minReadySeconds":600,"updateStrategy":{"rollingUpdate":{"maxSurge":"100%"}}}}`)
	eventually(t, func() string {
		if _, standbys := current(); standbys != len(theCluster.NodeNames) {
			return fmt.Sprintf("%d standbys", standbys)
		}
		return ""
	})
	must(t, "rollback", name)
	if after, standbys := current(); !slices.Equal(after, before) || standbys > 0 {
		t.Errorf("after the rollback %v are current and %d stand by, want %v", after, standbys, before)
	}
	pods := kubectl(t, "-n", "ebpm", "get", "pods", "-l", "ebpm.io/release="+name, "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
	if strings.Trim(pods, "0 ") != "" {
		t.Errorf("restarts: %s", pods)
	}
}

// waitFreed waits until the kernel has none of what was held.
func waitFreed(t *testing.T, ids []string) {
	t.Helper()
	eventually(t, func() string {
		if left := lives(t, ids); len(left) > 0 {
			return fmt.Sprintf("the kernel still has %v", left)
		}
		return ""
	})
}
