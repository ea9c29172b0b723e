// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

// Package handover tests moves between instances as users have them: processes of
// the built ecli, real hooks under load, SIGKILL.
package handover

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/deployer/ecli"
	protocol "github.com/ebpm/ebpm/deployer/ecli/handover"
	"github.com/ebpm/ebpm/manifest"
)

var full = flag.Bool("full", false, "make as many moves and kills as the documentation quotes")

const (
	// insideEnv is set in the process that has a network and a mount namespace of
	// its own.
	insideEnv = "EBPM_TEST_INSIDE"
	// stepEnv is set in an instance that ends itself by SIGKILL at that step; 0 tells
	// of each step.
	stepEnv = "EBPM_TEST_STEP"
	// slowEnv is set in an instance that waits that long before it loads, and has as
	// long for a move as timeoutEnv says.
	slowEnv, timeoutEnv = "EBPM_TEST_SLOW", "EBPM_TEST_TIMEOUT"
)

// What is built once.
var (
	work string // a folder
	bin  string // the folder of ecc and ecli
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(stepEnv) != "":
		os.Exit(runStepped())
	case os.Getenv(insideEnv) == "":
		os.Exit(inside())
	}
	flag.Parse()
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "handover:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// inside runs the tests in namespaces of their own: no frame of theirs leaves it.
func inside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	lockThread() // its end is a signal to the child
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in namespaces:", err)
		return 1
	}
	return 0
}

func testMain(m *testing.M) (code int, err error) {
	if work, err = os.MkdirTemp("", "ebpm-handover-"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := mountTracefs(); err != nil {
		return 0, err
	}
	bin = filepath.Join(work, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "../../cmd/ecc", "../../cmd/ecli")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build ecc and ecli: %w", err)
	}
	if err := makeNetwork(); err != nil {
		return 0, err
	}
	dir, err := makeCgroup()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dir()) }()
	return m.Run(), nil
}

func mountTracefs() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/kernel/tracing/events"); err == nil {
		return nil
	}
	return os.NewSyscallError("mount tracefs", unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""))
}

// sender is the interface that frames are sent on, and receiver the one on which
// programs see them.
const sender, receiver = "hsend", "hrecv"

func makeNetwork() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", sender, "numrxqueues", "1", "numtxqueues", "1", "type", "veth", "peer", "name", receiver, "numrxqueues", "1", "numtxqueues", "1"},
		{"link", "set", sender, "up"},
		{"link", "set", receiver, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// cgroup is where the process of the tests is, which makes the events.
var cgroup = fmt.Sprintf("/sys/fs/cgroup/unified/ebpm-handover-%d", os.Getpid())

// makeCgroup enters the cgroup, and returns what leaves and removes it.
func makeCgroup() (func() error, error) {
	if err := os.Mkdir(cgroup, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	enter := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	}
	if err := enter(cgroup); err != nil {
		return nil, err
	}
	return func() error {
		if err := enter(filepath.Dir(cgroup)); err != nil {
			return err
		}
		// A process that was killed is there until its end has come to an end.
		var err error
		for range 100 {
			if err = os.Remove(cgroup); err == nil {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	}, nil
}

// compile builds a version of the load package, once.
func compile(t testing.TB, name string, defines ...string) string {
	t.Helper()
	dir := filepath.Join(work, name)
	file := filepath.Join(dir, "package.json")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	const header = "../../deployer/ecli/testdata/handover/load.h"
	args := []string{"testdata/load.bpf.c", header, "-o", dir, fmt.Sprintf("-a=-DFIRST_THREAD=%d", firstThread)}
	for _, d := range defines {
		args = append(args, "-a=-D"+d)
	}
	return ecc(t, file, args...)
}

func ecc(t testing.TB, file string, args ...string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "ecc"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ecc %v: %v\n%s", args, err, out)
	}
	return file
}

func v1(t testing.TB) string { return compile(t, "v1", "VERSION=1") }
func v2(t testing.TB) string { return compile(t, "v2", "VERSION=2") }

// versions are the two between which moves go, the first one by i even.
func versions(t testing.TB, i int) string { return []string{v1(t), v2(t)}[i%2] }

// runStepped is `ecli run` with what a test needs: the end at a step.
func runStepped() int {
	err := func() error {
		at, err := strconv.Atoi(os.Getenv(stepEnv))
		if err != nil {
			return err
		}
		data, err := os.ReadFile(os.Args[2])
		if err != nil {
			return err
		}
		pkg, err := manifest.DecodePackage(data)
		if err != nil {
			return err
		}
		revision, err := strconv.ParseUint(os.Getenv("EBPM_REVISION"), 10, 64)
		if err != nil {
			return err
		}
		o := ecli.Options{
			Package: pkg, JSON: true, Stdout: os.Stdout, Stderr: os.Stderr, Handover: os.Args[1], Revision: revision,
			Hung: func(err error) {
				fmt.Fprintln(os.Stderr, "Error: hung:", err)
				os.Exit(1)
			},
		}
		for _, text := range os.Args[3:] {
			if o.Interface == "" {
				o.Interface = text
				continue
			}
			a, err := manifest.ParseAttach(text)
			if err != nil {
				return err
			}
			o.Attach = append(o.Attach, a)
		}
		if text := os.Getenv(timeoutEnv); text != "" {
			if protocol.MoveTimeout, err = time.ParseDuration(text); err != nil {
				return err
			}
		}
		slow, _ := time.ParseDuration(os.Getenv(slowEnv))
		n := 0
		o.Step = func(name string) {
			if n++; n == at {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
				select {}
			}
			if at == 0 {
				fmt.Fprintf(os.Stderr, "step %d %s\n", n, name)
			}
			if name == "before prepare" {
				time.Sleep(slow)
			}
		}
		ctx, stop := notify()
		defer stop()
		return ecli.Run(ctx, o)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return 0
}

func notify() (context.Context, context.CancelFunc) {
	return signalContext(unix.SIGTERM)
}
