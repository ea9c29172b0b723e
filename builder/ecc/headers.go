// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// The headers that a source may include without installing anything: those of
// libbpf for eBPF programs, and a vmlinux.h an architecture. headers/update
// makes them; headers/README.md says from what.
//
//go:embed headers/include/bpf/*.h headers/include/gnu/*.h headers/vmlinux/*/vmlinux.h.gz
var embedded embed.FS

// embeddedSums holds the SHA-256 of every file that [extractHeaders] writes, in
// the format of sha256sum.
//
//go:embed headers/SHA256SUMS
var embeddedSums string

// maxVmlinuxSize bounds a vmlinux.h, in bytes.
const maxVmlinuxSize = 64 << 20

// headerFile is one embedded header.
type headerFile struct {
	path string // below the include folder, such as bpf/bpf_helpers.h
	sum  string // SHA-256 in hexadecimal
	gzip bool
}

func (f headerFile) source() string {
	if f.gzip {
		return "headers/" + f.path + ".gz"
	}
	return "headers/include/" + f.path
}

func (f headerFile) content() ([]byte, error) {
	data, err := embedded.ReadFile(f.source())
	if err != nil {
		return nil, err
	}
	if f.gzip {
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		if data, err = io.ReadAll(io.LimitReader(r, maxVmlinuxSize)); err != nil {
			return nil, err
		}
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.sum {
		return nil, fmt.Errorf("embedded header %s does not have its recorded digest", f.path)
	}
	return data, nil
}

var embeddedHeaders = sync.OnceValue(func() []headerFile {
	var files []headerFile
	for line := range strings.Lines(embeddedSums) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok {
			continue
		}
		files = append(files, headerFile{path: name, sum: sum, gzip: strings.HasPrefix(name, "vmlinux/")})
	}
	return files
})

// digestOf is one digest for a set of header files: that of their sums.
func digestOf(files []headerFile) digest.Digest {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s  %s\n", f.sum, f.path)
	}
	return digest.NewDigest(digest.SHA256, h)
}

// headersFor returns the embedded headers of one architecture, as the folder
// vmlinux names it. A vmlinux without path means that there is none.
func headersFor(arch string) (vmlinux headerFile, libbpf []headerFile) {
	for _, f := range embeddedHeaders() {
		switch {
		case !f.gzip:
			libbpf = append(libbpf, f)
		case f.path == "vmlinux/"+arch+"/vmlinux.h":
			vmlinux = f
		}
	}
	return vmlinux, libbpf
}

// extractHeaders returns a folder with bpf/*.h and vmlinux/ARCH/vmlinux.h. It
// is in the user's cache, where a later compile finds it again, if nobody else
// can write there; else below scratch. What is in the cache is verified.
func extractHeaders(files []headerFile, scratch string) (string, error) {
	if base, err := cacheDir(); err == nil {
		dir := filepath.Join(base, "headers-"+digestOf(files).Encoded()[:32])
		if verifyHeaders(dir, files) == nil {
			return dir, nil
		}
		if err := installHeaders(base, dir, files); err == nil {
			return dir, nil
		}
		// A cache that cannot be used (full, read-only) is passed by.
	}
	dir := filepath.Join(scratch, "headers")
	if err := writeHeaders(dir, files); err != nil {
		return "", fmt.Errorf("extract headers: %w", err)
	}
	return dir, nil
}

// cacheDir returns ebpm's folder in the user's cache. It fails unless the
// folder and its parent belong to the user and nobody else can write there:
// the headers in it become part of what is compiled.
func cacheDir() (string, error) {
	parent, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	dir := filepath.Join(parent, "ebpm")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	for _, d := range []string{parent, dir} {
		if err := checkPrivate(d); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// checkPrivate fails when somebody else could change what is in dir.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s can be written by others", dir)
	}
	return checkOwner(dir, info)
}

func verifyHeaders(dir string, files []headerFile) error {
	if err := checkPrivate(dir); err != nil {
		return err
	}
	for _, f := range files {
		if err := verifyFile(filepath.Join(dir, filepath.FromSlash(f.path)), f.sum); err != nil {
			return err
		}
	}
	return nil
}

func verifyFile(name, sum string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(file, maxVmlinuxSize)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return fmt.Errorf("%s was changed", name)
	}
	return nil
}

// installHeaders puts the files into dir, below base, in one step.
func installHeaders(base, dir string, files []headerFile) (err error) {
	temp, err := os.MkdirTemp(base, ".headers-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	fresh := filepath.Join(temp, "new")
	if err := writeHeaders(fresh, files); err != nil {
		return err
	}
	if os.Rename(fresh, dir) == nil || verifyHeaders(dir, files) == nil {
		return nil // or another process was first
	}
	if err := os.Rename(dir, filepath.Join(temp, "old")); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

func writeHeaders(dir string, files []headerFile) error {
	for _, f := range files {
		data, err := f.content()
		if err != nil {
			return err
		}
		name := filepath.Join(dir, filepath.FromSlash(f.path))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// digestTree returns a digest over the names and contents of the headers below
// dir, for folders that are not ours.
func digestTree(dir string) (digest.Digest, error) {
	var files []headerFile
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		sum, err := digestFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		files = append(files, headerFile{path: filepath.ToSlash(rel), sum: sum.Encoded()})
		return nil
	})
	if err != nil {
		return "", err
	}
	slices.SortFunc(files, func(a, b headerFile) int { return strings.Compare(a.path, b.path) })
	return digestOf(files), nil
}

func digestFile(name string) (digest.Digest, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return digest.SHA256.FromReader(io.LimitReader(file, maxVmlinuxSize))
}
