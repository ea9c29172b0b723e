// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

const (
	folder = "../../examples"
	// packagesEnv names a folder with NAME/package.json of each example, for
	// machines without a compiler.
	packagesEnv = "EBPM_TEST_PACKAGES"
	// timeout is of what an example prints in two seconds at most.
	timeout = time.Minute
)

// An action makes something happen that an example reports.
type action struct {
	// args are the program's.
	args []string
	// do is called once all programs are attached.
	do func() error
	// want are patterns; the output has to match all of them.
	want []string
}

// tests are of each example, at least one.
var tests = []struct {
	name, example string
	prepare       func(t *testing.T) action
}{
	{"bashreadline", "bashreadline", typeIntoBash},
	{"bpfguard", "bpfguard", loadAllowed},
	{"bpfguard-deny", "bpfguard", loadDenied},
	{"cgtraffic", "cgtraffic", sendFromCgroup},
	{"execsnoop", "execsnoop", runProgram},
	{"execsnoop-failed", "execsnoop", runProgramThatFails},
	{"opensnoop", "opensnoop", openFile},
	{"profile", "profile", useCPU},
	{"runqlat", "runqlat", wakeUp},
	{"tcpstates", "tcpstates", connectTCP},
	{"xdpsyn", "xdpsyn", sendSYN},
}

// Each example runs, and reports what is made to happen.
func TestExamples(t *testing.T) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	untested := map[string]bool{}
	for _, e := range entries {
		untested[e.Name()] = true
	}
	for _, tt := range tests {
		delete(untested, tt.example)
		t.Run(tt.name, func(t *testing.T) {
			pkg := openPackage(t, tt.example)
			readme := checkDocs(t, tt.example, pkg)
			printed := check(t, pkg, tt.prepare(t))
			header, _, _ := strings.Cut(printed, "\n")
			if strings.HasPrefix(header, "TIME ") && !strings.Contains(readme, "\n"+strings.TrimRight(header, " ")+"\n") {
				t.Errorf("the README does not show the header %q", header)
			}
		})
	}
	for name := range untested {
		t.Errorf("the example %s has no test", name)
	}
}

// openPackage compiles an example for each architecture and returns that of this
// machine, or finds it compiled.
func openPackage(t *testing.T, name string) *manifest.Package {
	t.Helper()
	if dir := os.Getenv(packagesEnv); dir != "" {
		data, err := os.ReadFile(filepath.Join(dir, name, "package.json"))
		if err != nil {
			t.Fatal(err)
		}
		pkg, err := manifest.DecodePackage(data)
		if err != nil {
			t.Fatal(err)
		}
		return pkg
	}
	var pkg *manifest.Package
	for _, arch := range ecc.Architectures() {
		var diagnostics bytes.Buffer
		result, err := ecc.Compile(t.Context(), ecc.Options{
			Source: filepath.Join(folder, name, name+".bpf.c"), Header: filepath.Join(folder, name, name+".h"),
			Output: t.TempDir(), Arch: arch, Diagnostics: &diagnostics,
		})
		if err != nil {
			t.Fatalf("for %s: %v\n%s", arch, err, &diagnostics)
		}
		if diagnostics.Len() > 0 {
			t.Errorf("for %s the compiler warns:\n%s", arch, &diagnostics)
		}
		if arch == runtime.GOARCH {
			pkg = result.Package
		}
	}
	return pkg
}

// checkDocs compares what an example says of itself with what its object shows,
// and returns its README.
func checkDocs(t *testing.T, name string, pkg *manifest.Package) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, name, "ebpm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := manifest.ParseSpec(data)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Requires == nil || spec.Requires.Kernel == "" {
		t.Error("ebpm.yaml names no kernel")
	}
	object, err := manifest.Inspect(pkg.Object)
	if err != nil {
		t.Fatal(err)
	}
	needs, err := object.NeedsOf(&pkg.Meta, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(folder, name, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if rights := "`" + needs.Rights.String() + "`"; !strings.Contains(string(readme), rights) {
		t.Errorf("the README does not name the rights in a Pod, %s", rights)
	}
	return string(readme)
}

// output is what a running example printed.
type output struct {
	mu   sync.Mutex
	data bytes.Buffer
	// grown gets a value when there is more to look at.
	grown chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.grown <- struct{}{}:
	default:
	}
	return o.data.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// check runs an example until it printed what the action wants, and returns all
// that it printed.
func check(t *testing.T, pkg *manifest.Package, a action) string {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), timeout, fmt.Errorf("it took longer than %s", timeout))
	defer cancel()
	run, stop := context.WithCancel(ctx)
	defer stop()
	stdout, stderr := &output{grown: make(chan struct{}, 1)}, &output{}
	attached := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- ecli.Run(run, ecli.Options{
			Package: pkg, Args: a.args, Stdout: stdout, Stderr: stderr,
			Status: func(s manifest.Status) {
				if s.Event == manifest.StatusAttached {
					close(attached)
				}
			},
		})
	}()
	select {
	case <-attached:
	case err := <-ended:
		// Root is refused LSM programs in some sandboxes, and never in the
		// machines of e2e/kernel.
		if errors.Is(err, fs.ErrPermission) && os.Getenv(packagesEnv) == "" {
			t.Skip(err)
		}
		t.Fatalf("%v\n%s", err, stderr)
	}
	if err := a.do(); err != nil {
		t.Error(err)
	}
	missing := a.want
	for len(missing) > 0 && ctx.Err() == nil {
		select {
		case <-stdout.grown:
		case err := <-ended:
			t.Fatalf("it ended: %v\n%s", err, stderr)
		case <-ctx.Done():
		}
		missing = unmatched(a.want, stdout.String())
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, pattern := range missing {
		t.Errorf("the output does not match %s", pattern)
	}
	t.Logf("%s%s", stdout, stderr)
	return stdout.String()
}

func unmatched(patterns []string, text string) []string {
	var missing []string
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(text) {
			missing = append(missing, p)
		}
	}
	return missing
}
