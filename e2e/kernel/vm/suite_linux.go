// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// A Suite is the tests of some packages, built as static binaries.
type Suite struct {
	dir  string
	root string // of the module
	// packages are those that have tests.
	packages []testPackage
}

type testPackage struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
	Module                    struct{ Dir string }

	binary string
}

// Build builds the tests of the packages that the Go command finds under these
// patterns. Close removes what it built.
func Build(ctx context.Context, patterns []string) (_ *Suite, err error) {
	out, err := goCommand(ctx, append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles,Module", "--"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	s := &Suite{}
	if s.dir, err = os.MkdirTemp("", "ebpm-vm-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p testPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what go list printed: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			continue
		}
		p.binary = filepath.Join(s.dir, fmt.Sprintf("%d.test", len(s.packages)))
		if _, err := goCommand(ctx, "test", "-c", "-o", p.binary, p.ImportPath); err != nil {
			return nil, err
		}
		s.root = p.Module.Dir
		s.packages = append(s.packages, p)
	}
	if len(s.packages) == 0 {
		return nil, fmt.Errorf("find tests in %v: there are none", patterns)
	}
	return s, nil
}

// Close removes the binaries.
func (s *Suite) Close() error { return os.RemoveAll(s.dir) }

// goCommand returns what the Go command printed. What it builds needs no C
// library, which the machine has not.
func goCommand(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
