// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// benchCompiler holds ecc against clang with the same flags and input.
func (b *bench) benchCompiler(ctx context.Context) error {
	ecc := filepath.Join(b.root, "bin", "ecc")
	includes, err := b.headers()
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

// headers returns the flags by which clang finds the headers that ecc brings.
func (b *bench) headers() ([]string, error) {
	arch, ok := map[string]string{"amd64": "x86", "arm64": "arm64"}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("ecc brings no vmlinux.h for %s", runtime.GOARCH)
	}
	brought := filepath.Join(b.root, "builder", "ecc", "headers")
	packed, err := os.Open(filepath.Join(brought, "vmlinux", arch, "vmlinux.h.gz"))
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	text, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	vmlinux, err := os.Create(filepath.Join(b.work, "vmlinux.h"))
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(vmlinux, text); err != nil {
		return nil, errors.Join(err, vmlinux.Close())
	}
	return []string{"-D__TARGET_ARCH_" + arch, "-I" + filepath.Join(brought, "include"), "-I" + b.work}, vmlinux.Close()
}
