// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestRunErrors(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name   string
		args   []string
		epoch  string
		ctx    context.Context
		code   int
		stderr string
	}{
		{name: "no target", code: 2, stderr: "neither -o nor -push is given"},
		{name: "unknown flag", args: []string{"-x"}, code: 2, stderr: "flag provided but not defined: -x"},
		{name: "argument", args: []string{"-o", "d", "ebpm"}, code: 2, stderr: `unexpected argument "ebpm"`},
		{name: "bad time", args: []string{"-o", "d"}, epoch: "today", code: 2, stderr: `SOURCE_DATE_EPOCH is "today"`},
		{name: "time before 1970", args: []string{"-o", "d"}, epoch: "-1", code: 2, stderr: `SOURCE_DATE_EPOCH is "-1"`},
		{name: "no programs", args: []string{"-bin", "nowhere", "-o", "d"}, code: 5, stderr: "go build -trimpath -o nowhere/amd64/ecli ./cmd/ecli"},
		{name: "interrupted", args: []string{"-bin", "nowhere", "-o", "d"}, ctx: interrupted, code: 130, stderr: "interrupted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("SOURCE_DATE_EPOCH", tt.epoch)
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			var stdout, stderr bytes.Buffer
			if code := run(ctx, tt.args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr is %q, want %q", stderr.String(), tt.stderr)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout is %q, want nothing", stdout.String())
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, want := range []string{"usage: ", "-push REGISTRY[/PATH]", "SOURCE_DATE_EPOCH"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("stdout is %q, want %q in it", stdout.String(), want)
		}
	}
}

func TestConfiguredPlain(t *testing.T) {
	t.Setenv("EBPM_PLAIN_HTTP", "10.77.0.1:5000,registry.test:80")
	for prefix, want := range map[string]bool{
		"localhost:5000/team":   true,
		"127.0.0.1:5000":        true,
		"[::1]:5000":            true,
		"10.77.0.1:5000/team":   true,
		"registry.test:80":      true,
		"registry.test":         false,
		"10.77.0.1:5001":        false,
		"localhost.example:443": false,
		"registry.example/team": false,
	} {
		if got := configuredPlain(prefix); got != want {
			t.Errorf("configuredPlain(%q) = %v, want %v", prefix, got, want)
		}
	}
}
