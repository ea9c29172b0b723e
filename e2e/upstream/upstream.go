// SPDX-License-Identifier: Apache-2.0

// Package upstream brings eunomia-bpf's own runner to this machine, so that ours
// can be held against it. Cargo compiles it from the crate; nothing of it is in
// this repository.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// The crate, and the release that the runner follows.
const (
	Crate   = "ecli-rs"
	Version = "0.2.9"
)

// ErrNoCargo says that nothing here compiles Rust.
var ErrNoCargo = errors.New("cargo is not installed: " + Crate + " " + Version + " cannot be compiled here")

// root is the folder that cargo installs to.
func root() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "ebpm", Crate+"-"+Version), nil
}

// Cached returns the path of the runner that [Install] has made, "" without one.
func Cached() string {
	dir, err := root()
	if err != nil {
		return ""
	}
	path := filepath.Join(dir, "bin", Crate)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// Install returns the path of the runner. The first time, it compiles it, which
// takes minutes; log gets what cargo says. The error is [ErrNoCargo] where cargo
// is missing.
func Install(ctx context.Context, log io.Writer) (path string, err error) {
	if path := Cached(); path != "" {
		return path, nil
	}
	dir, err := root()
	if err != nil {
		return "", err
	}
	cargo, err := findCargo()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	// Complete or not there at all, also when two do this at once.
	scratch, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+"-*")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if err := os.Chmod(scratch, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, cargo, "install", Crate, "--version", Version, "--locked",
		"--root", scratch, "--target-dir", filepath.Join(scratch, "target"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("compile %s %s: %w", Crate, Version, err)
	}
	if err := os.RemoveAll(filepath.Join(scratch, "target")); err != nil {
		return "", err
	}
	if err := os.Rename(scratch, dir); err != nil && Cached() == "" {
		return "", err
	}
	return Cached(), nil
}

// findCargo looks beside the command search path in the folder of rustup, which
// shells of root often do not search.
func findCargo() (string, error) {
	if path, err := exec.LookPath("cargo"); err == nil {
		return path, nil
	}
	home := os.Getenv("CARGO_HOME")
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", ErrNoCargo
		}
		home = filepath.Join(user, ".cargo")
	}
	path, err := exec.LookPath(filepath.Join(home, "bin", "cargo"))
	if err != nil {
		return "", ErrNoCargo
	}
	return path, nil
}
