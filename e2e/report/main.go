// SPDX-License-Identifier: Apache-2.0

// Command report runs go test, prints what failed and what was slow, and fails
// when a test was skipped that the file of -skips does not list.
//
//	report [-skips FILE] -- ARGUMENTS OF GO TEST
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json (cmd/test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64 // seconds
}

func main() {
	skips := flag.String("skips", "", "the `FILE` that lists the tests that may be skipped, each with its reason")
	slowest := flag.Int("slowest", 10, "print this `NUMBER` of slow tests")
	flag.Parse()
	code, err := run(*skips, *slowest, flag.Args(), os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(skipFile string, slowest int, args []string, out io.Writer) (int, error) {
	allowed := map[string]string{}
	if skipFile != "" {
		data, err := os.ReadFile(skipFile)
		if err != nil {
			return 0, err
		}
		if allowed, err = parseSkips(string(data)); err != nil {
			return 0, fmt.Errorf("%s: %w", skipFile, err)
		}
	}
	start := time.Now()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	r := newResults(out)
	if err := r.read(pipe); err != nil {
		stop() // Nobody reads on.
		return 0, errors.Join(err, cmd.Wait())
	}
	err = cmd.Wait()
	unlisted := r.summary(allowed, slowest, time.Since(start))
	// That tests fail is what this program reports, and no error of its own.
	_, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed {
		return 0, err
	}
	if failed || unlisted > 0 {
		return 1, nil
	}
	return 0, nil
}

// parseSkips reads lines "PACKAGE TEST: reason"; # begins a comment. TEST/...
// are the tests below TEST.
func parseSkips(text string) (map[string]string, error) {
	allowed := map[string]string{}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, ok := strings.Cut(line, ": ")
		if !ok || strings.TrimSpace(reason) == "" || len(strings.Fields(name)) != 2 {
			return nil, fmt.Errorf("line %d: wanted `PACKAGE TEST: reason`", n+1)
		}
		allowed[strings.Join(strings.Fields(name), " ")] = reason
	}
	return allowed, nil
}

// listed reports whether allowed has the key "PACKAGE TEST", or that of tests
// that it is below.
func listed(allowed map[string]string, key string) bool {
	if _, ok := allowed[key]; ok {
		return true
	}
	for i := len(key) - 1; i > strings.Index(key, " "); i-- {
		if key[i] == '/' {
			if _, ok := allowed[key[:i]+"/..."]; ok {
				return true
			}
		}
	}
	return false
}

type results struct {
	out    io.Writer
	output map[string][]string
	passed, failed, skipped,
	packages int
	skippedTests []string
	slow         []event
}

func newResults(out io.Writer) *results {
	return &results{out: out, output: map[string][]string{}}
}

func (r *results) read(stream io.Reader) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			// The build's own messages come between.
			fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.add(e)
	}
	return lines.Err()
}

func (r *results) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if e.Test == "" && !strings.HasPrefix(e.Output, "ok ") && !strings.HasPrefix(e.Output, "PASS") {
			fmt.Fprint(r.out, e.Output)
			return
		}
		r.output[key] = append(r.output[key], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			if e.Action != "skip" {
				r.packages++
				fmt.Fprintf(r.out, "%-4s  %s  %.1f s\n", e.Action, e.Package, e.Elapsed)
			}
			return
		}
		r.finish(key, e)
	}
}

func (r *results) finish(key string, e event) {
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		fmt.Fprint(r.out, strings.Join(r.output[key], ""))
	case "skip":
		r.skipped++
		r.skippedTests = append(r.skippedTests, key)
		fmt.Fprint(r.out, strings.Join(r.output[key], ""))
	}
	delete(r.output, key)
	r.slow = append(r.slow, e)
}

// summary prints the end and returns the number of unlisted skips.
func (r *results) summary(allowed map[string]string, slowest int, took time.Duration) (unlisted int) {
	slices.SortFunc(r.slow, func(a, b event) int { return int((b.Elapsed - a.Elapsed) * 1000) })
	fmt.Fprintln(r.out, "slowest:")
	for i, e := range r.slow {
		if i == slowest || e.Elapsed < 0.5 {
			break
		}
		fmt.Fprintf(r.out, "  %6.1f s  %s %s\n", e.Elapsed, strings.TrimPrefix(e.Package, "github.com/ebpm/ebpm/"), e.Test)
	}
	for _, key := range r.skippedTests {
		short := strings.TrimPrefix(key, "github.com/ebpm/ebpm/")
		if !listed(allowed, short) {
			unlisted++
			fmt.Fprintf(r.out, "skipped, but not listed with a reason: %s\n", short)
		}
	}
	fmt.Fprintf(r.out, "%d packages in %.0f s\n", r.packages, took.Seconds())
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed+unlisted, r.skipped)
	return unlisted
}
