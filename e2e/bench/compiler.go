// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// benchCompiler holds ecc against clang with the same flags and input.
func (b *bench) benchCompiler(ctx context.Context) error {
	ecc := filepath.Join(b.root, "bin", "ecc")
	includes, err := b.headers(ctx, ecc)
	if err != nil {
		return err
	}
	t := newTable("the compiler", []contender{{name: "ebpm's ecc"}, {name: "bare clang"}})
	for _, example := range []string{"opensnoop", "xdpsyn", "bashreadline"} {
		dir := filepath.Join(b.root, "examples", example)
		source, header := filepath.Join(dir, example+".bpf.c"), filepath.Join(dir, example+".h")
		commands := [][]string{
			{ecc, source, header, "-o", b.work},
			append(append([]string{"clang", "-g", "-O2", "-target", "bpf", "-Wno-unknown-attributes"}, includes...),
				"-I"+dir, "-c", source, "-o", filepath.Join(b.work, "bare.o")),
		}
		for range b.runs + 1 {
			for column, args := range commands {
				cmd := exec.CommandContext(ctx, args[0], args[1:]...)
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
				}
				// With what the command's own children have used.
				used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				t.add("CPU of "+example, column, "ms", float64(used.Microseconds())/1e3)
			}
		}
	}
	return t.write(b.out)
}

// headers returns the flags by which clang finds the headers that ecc brings. A
// wrapper that takes the place of clang learns them, and keeps the headers.
func (b *bench) headers(ctx context.Context, ecc string) ([]string, error) {
	kept := filepath.Join(b.work, "headers")
	wrapper := filepath.Join(b.work, "clang-that-keeps-headers")
	script := `#!/bin/sh
for arg; do
	case "$arg" in
	-I*/bpf|-I*/gnu|-I*/vmlinux/*) ;;
	-D__TARGET_ARCH_*) echo "$arg" > "$KEPT.arch";;
	-I/*) [ -e "$KEPT" ] || { [ -d "${arg#-I}/vmlinux" ] && cp -r "${arg#-I}" "$KEPT"; };;
	esac
done
exec clang "$@"
`
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, ecc, "-c", wrapper, filepath.Join(b.root, "examples/xdpsyn/xdpsyn.bpf.c"), "-o", b.work)
	cmd.Env = append(os.Environ(), "KEPT="+kept)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ecc: %w\n%s", err, out)
	}
	arch, err := os.ReadFile(kept + ".arch")
	if err != nil {
		return nil, err
	}
	vmlinux, err := filepath.Glob(filepath.Join(kept, "vmlinux", "*"))
	if err != nil || len(vmlinux) != 1 {
		return nil, fmt.Errorf("ecc brought the headers %v: %w", vmlinux, err)
	}
	return []string{strings.TrimSpace(string(arch)), "-I" + kept, "-I" + vmlinux[0]}, nil
}
