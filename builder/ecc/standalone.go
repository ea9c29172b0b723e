// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// runnerName is the program that a standalone executable is made of, and
	// runnerPackage the Go package that it is built from.
	runnerName    = "ecli"
	runnerPackage = "github.com/ebpm/ebpm/cmd/ecli"
	// maxRunner bounds it, in bytes.
	maxRunner = 256 << 20
)

// standalone returns an executable that runs the package without anything else:
// the runner with the package behind it. It does what upstream's C program does
// that is linked with libeunomia.a, and needs neither that nor a linker.
func (c *compilation) standalone(packed []byte) ([]byte, error) {
	c.Log.Info("Generating standalone executable..", slog.String(ModuleAttr, "ecc_rs::bpf_compiler::standalone"))
	name, runner, err := c.findRunner()
	if err != nil {
		return nil, err
	}
	if isDynamic(runner) {
		c.Log.Warn(fmt.Sprintf("%s is linked with libraries of this machine, and so will be the executable: build it with CGO_ENABLED=0", name))
	}
	return manifest.AppendStandalone(runner, packed), nil
}

// findRunner returns the ecli beside this program, else that of PATH. It must be
// ours, as another knows nothing of a package behind it, and for the
// architecture of the object.
func (c *compilation) findRunner() (string, []byte, error) {
	var candidates []string
	if own, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(own), runnerName))
	}
	if found, err := exec.LookPath(runnerName); err == nil {
		candidates = append(candidates, found)
	}
	var refused []error
	for _, name := range candidates {
		data, err := readFile(name, maxRunner)
		if err == nil {
			err = checkRunner(data, c.Arch)
		}
		if err == nil {
			return name, data, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			refused = append(refused, fmt.Errorf("%s: %w", name, err))
		}
	}
	err := fmt.Errorf("generate standalone executable: there is no %s beside this program or in PATH to make it of", runnerName)
	if len(refused) > 0 {
		err = fmt.Errorf("generate standalone executable: %w", errors.Join(refused...))
	}
	return "", nil, manifest.WithKind(manifest.KindPrecondition, err,
		fmt.Sprintf("Put the %s that came with ebpm, for %s, beside ecc or into PATH.", runnerName, c.Arch))
}

// checkRunner fails unless an executable is our runner for an architecture.
func checkRunner(data []byte, arch string) error {
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil || info.Path != runnerPackage {
		return errors.New("it is another program, not the runner of ebpm")
	}
	for key, want := range map[string]string{"GOOS": "linux", "GOARCH": arch} {
		i := slices.IndexFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == key })
		if i < 0 || info.Settings[i].Value != want {
			return fmt.Errorf("it is not for linux/%s", arch)
		}
	}
	own, err := manifest.ReadStandalone(bytes.NewReader(data), int64(len(data)))
	if err != nil || own != nil {
		return errors.New("it has a package of its own behind it")
	}
	return nil
}

// isDynamic reports whether an executable asks for a dynamic linker.
func isDynamic(data []byte) bool {
	file, err := elf.NewFile(bytes.NewReader(data))
	return err == nil && slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
