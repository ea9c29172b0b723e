// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// terminal returns a terminal, and what reads all that was written to it once it
// is closed.
func terminal(t *testing.T) (tty *os.File, written func() string) {
	t.Helper()
	master, tty := terminalPair(t)
	done := make(chan string)
	go func() {
		var b bytes.Buffer
		_, _ = b.ReadFrom(master) // EIO at the end
		done <- b.String()
	}()
	return tty, func() string {
		if err := tty.Close(); err != nil {
			t.Error(err)
		}
		return <-done
	}
}

// terminalPair returns both ends of a terminal.
func terminalPair(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, syscall.O_RDWR|syscall.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	return master, os.NewFile(slave, "terminal")
}

// TestTerminal: what others named does nothing to a terminal, and reaches a pipe
// as it is.
func TestTerminal(t *testing.T) {
	data, err := os.ReadFile("testdata/burst.json")
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	const evil = "\x1b]0;evil\a\u202egpj"
	pkg.Meta.Skeleton.Doc = &manifest.Doc{
		Version:     manifest.AppendJSONString(nil, evil),
		Description: manifest.AppendJSONString(nil, evil),
		Details:     manifest.AppendJSONString(nil, evil),
	}
	if data, err = pkg.Encode(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "evil.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	const escaped = `\x1b]0;evil\a\u202egpj`
	for _, args := range [][]string{
		{"run", file, "--help"}, {"run", file, "--version"}, {"run", evil}, {"run", file, "--" + evil}, {"run", "--" + evil}, {"run", "-p", evil, "x"},
	} {
		t.Run(strings.ReplaceAll(fmt.Sprint(args), file, "FILE"), func(t *testing.T) {
			tty, written := terminal(t)
			run(args, strings.NewReader(""), tty, tty)
			if got := written(); !strings.Contains(got, escaped) || strings.ContainsAny(got, "\x1b\a\u202e") {
				t.Errorf("on a terminal: %q", got)
			}
			var out bytes.Buffer
			run(args, strings.NewReader(""), &out, &out)
			if got := out.String(); !strings.Contains(got, evil) {
				t.Errorf("in a pipe: %q", got)
			}
		})
	}
}

// TestNoStatusOnTerminals: records of the status are for programs.
func TestNoStatusOnTerminals(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "ready.sock")
	cmd := command(t, "run", "--ready", socket, "testdata/burst.json")
	tty, written := terminal(t)
	cmd.Stderr = tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, socket, &bytes.Buffer{})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := written(); got != "" {
		t.Errorf("written %q", got)
	}
}
