// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command interop runs packages through ecli and through eunomia-bpf's own
// runner, which it compiles the first time, and compares what they print, line
// by line. The packages are those that ecc makes of the sources below
// deployer/ecli/testdata/upstream, and those that eunomia-bpf's ecc made of the
// same sources. It ends with 1 on a difference that the table in scenarios.go
// does not list, and on a listed one that is gone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/ebpm/ebpm/e2e/upstream"
)

func main() {
	only := flag.String("run", "", "compare only the scenarios whose name this `REGEXP` matches")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

// ownPID is the process that makes the events.
var ownPID = strconv.Itoa(os.Getpid())

type interop struct {
	root, work   string
	ours, theirs string // the runners
	built        map[string]string
}

func run(ctx context.Context, only string, out, log io.Writer) (err error) {
	if os.Getuid() != 0 {
		return errors.New("it loads eBPF programs: run it as root")
	}
	selected, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	in := &interop{built: map[string]string{}}
	if in.theirs, err = upstream.Install(ctx, log); err != nil {
		return err
	}
	if in.root, err = os.Getwd(); err != nil {
		return err
	}
	in.ours = filepath.Join(in.root, "bin", "ecli")
	if in.work, err = os.MkdirTemp("", "ebpm-interop-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(in.work)) }()

	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "package\tmade by\tformat\tecli beside %s %s\n", upstream.Crate, upstream.Version)
	var details []string
	counts := map[string]int{}
	for _, s := range scenarios {
		if !selected.MatchString(s.name) {
			continue
		}
		packages, err := in.packages(ctx, s)
		if err != nil {
			return err
		}
		for _, format := range []string{"text", "json"} {
			fmt.Fprintf(log, "%s %s, %s\n", s.name, strings.Join(s.args, " "), format)
			outcomes, err := in.compare(ctx, s, packages, format)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			for i, o := range outcomes {
				verdict := judge(s, format, o[0], o[1])
				counts[verdict.kind]++
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", strings.TrimSpace(s.name+" "+strings.Join(s.args, " ")), packages[i].maker, format, verdict)
				if verdict.bad() {
					details = append(details, fmt.Sprintf("%s by %s, %s:\n%s", s.name, packages[i].maker, format, difference(o[0], o[1])))
				}
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, d := range details {
		fmt.Fprintf(out, "\n%s", d)
	}
	fmt.Fprintf(out, "\n%d equal, %d differ as listed, %d differ, %d listed and equal\n",
		counts[equal], counts[listed], counts[unlisted], counts[gone])
	if counts[unlisted]+counts[gone] > 0 {
		return errors.New("the runners are not as the list says")
	}
	return nil
}

// The kinds of a verdict.
const (
	equal    = "equal"
	listed   = "differs as listed"
	unlisted = "DIFFERS"
	gone     = "EQUAL, but listed"
)

type verdict struct{ kind, why string }

func (v verdict) bad() bool { return v.kind == unlisted || v.kind == gone }

func (v verdict) String() string {
	if v.why == "" {
		return v.kind
	}
	return v.kind + ": " + v.why
}

func judge(s scenario, format string, ours, theirs outcome) verdict {
	expected := s.differs != "" && (s.inFormat == "" || s.inFormat == format)
	same := ours.exit == theirs.exit && slices.Equal(ours.lines, theirs.lines)
	switch {
	case same && expected:
		return verdict{gone, s.differs}
	case same:
		return verdict{equal, ""}
	case expected:
		return verdict{listed, s.differs}
	default:
		return verdict{unlisted, ""}
	}
}

// difference shows both outputs from the first line that is not equal.
func difference(ours, theirs outcome) string {
	const shown = 8
	n := 0
	for n < len(ours.lines) && n < len(theirs.lines) && ours.lines[n] == theirs.lines[n] {
		n++
	}
	var b strings.Builder
	for _, side := range []struct {
		sign string
		outcome
	}{{"ours  ", ours}, {"theirs", theirs}} {
		fmt.Fprintf(&b, "%s exit %d, %d lines\n", side.sign, side.exit, len(side.lines))
		for _, line := range side.lines[n:min(n+shown, len(side.lines))] {
			fmt.Fprintf(&b, "%s | %s\n", side.sign, line)
		}
		if len(side.lines) == n {
			fmt.Fprintf(&b, "%s stderr: %s\n", side.sign, strings.TrimSpace(side.stderr))
		}
	}
	return b.String()
}

// A pack is a package of one scenario.
type pack struct{ maker, path string }

// packages returns the packages of a scenario, ours first.
func (in *interop) packages(ctx context.Context, s scenario) ([]pack, error) {
	folder, base := filepath.Split(s.name)
	dir := filepath.Join(in.root, "deployer/ecli/testdata/upstream", folder)
	if folder == "examples/" {
		dir = filepath.Join(in.root, folder, base)
	}
	var packages []pack
	if !s.byHand {
		path, err := in.build(ctx, filepath.Join(dir, base+".bpf.c"), s.header)
		if err != nil {
			return nil, err
		}
		packages = append(packages, pack{"ecc", path})
	}
	if s.theirs != "" {
		maker := "ecc-rs 0.3.4"
		if s.byHand {
			maker = "hand"
		}
		packages = append(packages, pack{maker, filepath.Join(dir, s.theirs)})
	}
	return packages, nil
}

// build compiles a source, once.
func (in *interop) build(ctx context.Context, source, header string) (string, error) {
	if path := in.built[source]; path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp(in.work, "package-*")
	if err != nil {
		return "", err
	}
	args := []string{source}
	if header != "" {
		args = append(args, filepath.Join(filepath.Dir(source), header))
	}
	cmd := exec.CommandContext(ctx, filepath.Join(in.root, "bin", "ecc"), append(args, "-o", dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile %s: %w\n%s", source, err, out)
	}
	in.built[source] = filepath.Join(dir, "package.json")
	return in.built[source], nil
}
