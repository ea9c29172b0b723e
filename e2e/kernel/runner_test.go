// SPDX-License-Identifier: Apache-2.0

//go:build linux && e2e

package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/e2e/kernel/vm"
)

var update = flag.Bool("update", false, "write the tables of docs/hooks.md and docs/handover-hooks.md, with a column of the running kernel")

const (
	runner       = "../../deployer/ecli"
	hooksFile    = "../../docs/hooks.md"
	handoverFile = "../../docs/handover-hooks.md"
	// bootTimeout is far more than the tests of one kernel take: the processor
	// is translated.
	bootTimeout = 20 * time.Minute
)

// hookOptions make a machine for the tests of the hooks.
var hookOptions = vm.Options{Modules: vm.DefaultModules, Programs: vm.DefaultPrograms}

// TestRunner runs the tests of the runner on each kernel, and compares what they
// say of the hooks with the documentation. Each test there is a test here:
// TestRunner/KERNEL/TEST. Handovers are tested with one processor, too.
func TestRunner(t *testing.T) {
	suite, err := vm.Build(t.Context(), []string{runner})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := suite.Close(); err != nil {
			t.Error(err)
		}
	})
	var columns []*column
	for _, series := range vm.Series {
		c := newColumn("Linux " + series)
		columns = append(columns, c)
		t.Run(series, func(t *testing.T) { runOn(t, series, suite, hookOptions, c) })
	}
	// There, the kernel's ways to wait for other processors have nothing to wait for.
	t.Run("one processor", func(t *testing.T) {
		alone := hookOptions
		alone.CPUs, alone.Args = 1, []string{"-test.run=^(TestHandover|TestTPBTF|TestKprobe|TestXDPFrags)$"}
		runOn(t, vm.Series[len(vm.Series)-1], suite, alone, newColumn(""))
	})
	if t.Failed() {
		t.Log("the tables of hooks are not looked at, since tests failed")
		return
	}
	names := hookNames(columns)
	if len(names) == 0 {
		t.Fatal("the tests of the runner name no hook")
	}
	all := columns
	var here *column
	if *update || len(neverWorks(columns)) > 0 {
		here = runHere(t)
		all = append(all[:len(all):len(all)], here)
	}
	for _, name := range neverWorks(all) {
		t.Errorf("no kernel runs a program of the section %s", name)
	}
	t.Run("hooks.md", func(t *testing.T) { checkTable(t, hooksFile, columns, here, (*column).cell) })
	t.Run("handover-hooks.md", func(t *testing.T) { checkTable(t, handoverFile, columns, here, (*column).way) })
}

func runOn(t *testing.T, series string, suite *vm.Suite, o vm.Options, c *column) {
	k, err := vm.OpenKernel(t.Context(), series, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	output := map[string]string{}
	tests := 0
	err = vm.Run(ctx, k, suite, o, func(e vm.Event) {
		switch {
		case e.Action == "attr":
			c.attr(e.Key, e.Value)
		case e.Action == "output":
			output[e.Test] += e.Output
		case e.Test == "" && e.Action == "fail":
			t.Errorf("the test binary failed:\n%s", output[""])
		case e.Test == "":
		case e.Action == "pass", e.Action == "fail", e.Action == "skip":
			tests++
			t.Run(e.Test, func(t *testing.T) { repeatResult(t, e.Action, output[e.Test]) })
			delete(output, e.Test)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if tests == 0 {
		t.Error("no test ran")
	}
}

func repeatResult(t *testing.T, result, output string) {
	switch result {
	case "fail":
		t.Errorf("\n%s", output)
	case "skip":
		t.Skipf("\n%s", output)
	}
}

// checkTable compares the columns with those of a file. The last one there is of
// the machine on which it was written, which no other one needs to be like; it is
// written anew from here.
func checkTable(t *testing.T, file string, columns []*column, here *column, cell func(*column, string) string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, old, after, err := cutTable(string(data))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	names := hookNames(columns)
	for _, c := range columns {
		for _, name := range c.untested(names, cell) {
			t.Errorf("%s: no test says of the section %s what %s has", c.title, name, file)
		}
	}
	title, last := lastColumn(old)
	if *update {
		title = here.title
		for _, name := range names {
			last[name] = cell(here, name)
		}
	}
	got := table(columns, cell, title, last)
	if *update {
		if err := os.WriteFile(file, []byte(before+got+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(old, got); diff != "" {
		t.Errorf("the table of %s is not what the kernels did (make kernels UPDATE=1):\n%s", file, diff)
	}
}

// runHere runs the tests of the runner on this kernel.
func runHere(t *testing.T) *column {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	c := newColumn(fmt.Sprintf("Linux %d.%d, see below", major, minor))
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", runner)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("test the runner on this kernel: %v\n%s", err, stderr.String())
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e vm.Event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return c
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Action == "attr" {
			c.attr(e.Key, e.Value)
		}
		if e.Action == "fail" && e.Test != "" {
			t.Errorf("on this kernel %s failed", strings.TrimSpace(e.Test))
		}
	}
}
