// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bufio"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// The lines of the README between which the transcript stands.
const (
	beginMark = "<!-- begin: written by make demo -->\n"
	endMark   = "<!-- end: written by make demo -->\n"
)

// WriteTranscript puts a transcript into a README.
func WriteTranscript(file, transcript string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, _, after, err := cutTranscript(string(data))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(before+beginMark+"```console\n"+strings.Trim(transcript, "\n")+"\n```\n"+endMark+after), 0o644)
}

// ReadTranscript returns the transcript that a README holds.
func ReadTranscript(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	_, transcript, _, err := cutTranscript(string(data))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(transcript, "```console\n"), "```\n"), nil
}

func cutTranscript(text string) (before, transcript, after string, err error) {
	before, rest, ok := strings.Cut(text, beginMark)
	if ok {
		transcript, after, ok = strings.Cut(rest, endMark)
	}
	if !ok {
		return "", "", "", errors.New("the lines that mark the transcript are missing")
	}
	return before, transcript, after, nil
}

// What differs between two runs of the demo that show the same.
var variable = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?m)^\[ *\d+ s\]`), "[SECONDS]"},
	{regexp.MustCompile(`(?m)^(node\d)\s+\d\d:\d\d:\d\d .*$`), "$1 EVENT"},
	{regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d .*$`), "EVENT"},
	{regexp.MustCompile(`/dev/tcp/[\d.]+/`), "/dev/tcp/NODE/"},
	{regexp.MustCompile(`sha256:[0-9a-f]+`), "DIGEST"},
	{regexp.MustCompile(`\d+\.\d+\.\d+\.\d+:\d+`), "REGISTRY"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "DATE"},
	{regexp.MustCompile(`\b[0-9a-z-]*opensnoop-[a-z0-9]{5}\b|\bxdpsyn-[a-z0-9]{5}\b`), "POD"},
	{regexp.MustCompile(`\d+ programs?, \d+ links?, \d+ maps?`), "COUNTS"},
	{regexp.MustCompile(`\d+\.\d+\.\d+[-+][-+.\w]+`), "KERNEL"},
	{regexp.MustCompile(`\b\d+(\.\d+)?[smhd]\b`), "AGE"},
	{regexp.MustCompile(` \d+\.\d `), " DURATION "},
	{regexp.MustCompile(`-{2,}`), "-"},
	{regexp.MustCompile(` {2,}`), " "},
	{regexp.MustCompile(`(?m) +$`), ""},
}

// Shape returns what of a transcript is the same in each run.
func Shape(transcript string) string {
	for _, v := range variable {
		transcript = v.pattern.ReplaceAllString(transcript, v.with)
	}
	var lines []string
	for line := range strings.Lines(strings.Trim(transcript, "\n")) {
		line = strings.TrimRight(line, "\n")
		if len(lines) > 0 && line == "EVENT" && lines[len(lines)-1] == line {
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// startLines starts a command and returns the lines that it prints.
func startLines(cmd *exec.Cmd) (iter.Seq[string], error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(stdout)
	return func(yield func(string) bool) {
		for scanner.Scan() {
			if !yield(scanner.Text()) {
				return
			}
		}
	}, nil
}
