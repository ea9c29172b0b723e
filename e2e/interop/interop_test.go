// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	one, two := outcome{lines: []string{"1"}}, outcome{lines: []string{"2"}}
	failed := outcome{lines: []string{"1"}, exit: 1}
	for _, tt := range []struct {
		name         string
		s            scenario
		ours, theirs outcome
		want         string
		bad          bool
	}{
		{"equal", scenario{}, one, one, equal, false},
		{"lines", scenario{}, one, two, unlisted, true},
		{"exit", scenario{}, one, failed, unlisted, true},
		{"listed", scenario{differs: "why"}, one, two, listed, false},
		{"listed in this format", scenario{differs: "why", inFormat: "text"}, one, two, listed, false},
		{"listed in the other format", scenario{differs: "why", inFormat: "json"}, one, two, unlisted, true},
		{"gone", scenario{differs: "why"}, one, one, gone, true},
		{"equal in the other format", scenario{differs: "why", inFormat: "json"}, one, one, equal, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if v := judge(tt.s, "text", tt.ours, tt.theirs); v.kind != tt.want || v.bad() != tt.bad {
				t.Errorf("got %s, bad: %t", v, v.bad())
			}
		})
	}
}

func TestDifference(t *testing.T) {
	got := difference(outcome{lines: []string{"same", "a"}}, outcome{lines: []string{"same"}, exit: 1, stderr: "no\n"})
	want := "ours   exit 0, 2 lines\nours   | a\ntheirs exit 1, 1 lines\ntheirs stderr: no\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestMask(t *testing.T) {
	for line, want := range map[string]string{
		"12:34:56  1 2\n":     "<time>   1 2",
		"TIME     A\n":        "TIME     A",
		"{\"a\":\"1:2:3\"}\n": "{\"a\":\"1:2:3\"}",
		"half":                "half<no newline>",
	} {
		if got := mask(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// TestScenarios: what the table names is there, and a difference in one format
// names one that there is.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		t.Run(fmt.Sprint(s.name, s.args), func(t *testing.T) {
			folder, base := filepath.Split(s.name)
			dir := filepath.Join("../../deployer/ecli/testdata/upstream", folder)
			if folder == "examples/" {
				dir = filepath.Join("../..", s.name)
			}
			for _, file := range []string{base + ".bpf.c", s.header, s.theirs} {
				if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
					t.Error(err)
				}
			}
			if s.inFormat != "" && (s.differs == "" || !strings.Contains("text json", s.inFormat)) {
				t.Errorf("differs in format %q: %q", s.inFormat, s.differs)
			}
		})
	}
}
