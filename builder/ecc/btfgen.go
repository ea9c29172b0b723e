// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ulikunitz/xz"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// packedBTF ends the files of a btfhub archive: a tar with one RELEASE.btf.
	packedBTF = ".btf.tar.xz"
	// maxPackedBTF bounds such a file, in bytes.
	maxPackedBTF = 64 << 20
	// maxKernels bounds the files of an archive.
	maxKernels = 1 << 16
	// customArchive is the folder beside the results that upstream fills.
	customArchive = "custom-archive"
)

// DefaultBTFHub returns the folder of the btfhub archive that upstream takes
// when none is named, or "" where there is no home.
func DefaultBTFHub(getenv func(string) string) string {
	data := getenv("EUNOMIA_HOME")
	if data == "" && getenv("XDG_DATA_HOME") != "" {
		for _, part := range filepath.SplitList(getenv("XDG_DATA_HOME")) {
			dir := filepath.Join(part, "eunomia")
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				data = dir
				break
			}
		}
	} else if data == "" && getenv("HOME") != "" {
		data = filepath.Join(getenv("HOME"), ".local/share/eunomia")
	}
	if data == "" {
		return ""
	}
	return filepath.Join(data, manifest.BTFArchiveFolder)
}

// tailoredBTF makes of each kernel in the btfhub archive the types that the
// object needs, in the order of their paths (spec section A6).
//
// bpftool makes them, which knows what libbpf reads of a kernel's types. The
// result is far smaller than the whole: some kilobytes of some megabytes.
func (c *compilation) tailoredBTF(ctx context.Context, object []byte) ([]manifest.ArchivedBTF, error) {
	bpftool, err := c.findBpftool()
	if err != nil {
		return nil, err
	}
	root, err := c.openBTFHub()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	kernels, err := c.listBTFHub(root)
	if err != nil {
		return nil, fmt.Errorf("read the btfhub archive %s: %w", c.BTFHub, err)
	}
	dir := filepath.Join(c.scratch, "btf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	objectFile := filepath.Join(dir, "object.o")
	if err := os.WriteFile(objectFile, object, 0o600); err != nil {
		return nil, err
	}
	tailor := func(ctx context.Context, i int) ([]byte, error) {
		in, out := filepath.Join(dir, fmt.Sprintf("%d.btf", i)), filepath.Join(dir, fmt.Sprintf("%d.min.btf", i))
		data, err := unpackBTF(root, kernels[i])
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(in, data, 0o600); err != nil {
			return nil, err
		}
		if messages, err := c.run(ctx, toolEnv(), bpftool, "gen", "min_core_btf", in, out, objectFile); err != nil {
			return nil, fmt.Errorf("%s gen min_core_btf: %w: %s", bpftool, err, bytes.TrimSpace(messages))
		}
		if data, err = readFile(out, manifest.MaxBTFSize); err != nil {
			return nil, err
		}
		// An archive can have thousands.
		return data, errors.Join(os.Remove(in), os.Remove(out))
	}
	made := make([]manifest.ArchivedBTF, len(kernels))
	err = inParallel(ctx, len(kernels), func(ctx context.Context, i int) error {
		data, err := tailor(ctx, i)
		if err != nil {
			return fmt.Errorf("tailor the types of %s: %w", path.Join(filepath.ToSlash(c.BTFHub), kernels[i]), err)
		}
		made[i] = manifest.ArchivedBTF{Path: strings.TrimSuffix(kernels[i], packedBTF) + ".btf", Data: data}
		return nil
	})
	return made, err
}

// inParallel calls f for each of n, on as many CPUs as there are, until one
// fails.
func inParallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var group sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			for i := range work {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case work <- i:
		case <-ctx.Done():
		}
	}
	close(work)
	group.Wait()
	return context.Cause(ctx)
}

// findBpftool returns the bpftool of the workspace, else that of PATH or of the
// folders for administrators, where distributions put it.
func (c *compilation) findBpftool() (string, error) {
	candidates := []string{"bpftool", "/usr/local/sbin/bpftool", "/usr/sbin/bpftool", "/sbin/bpftool"}
	if c.Workspace != "" {
		candidates = slices.Insert(candidates, 0, filepath.Join(c.Workspace, "bin", "bpftool"))
	}
	for _, name := range candidates {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", manifest.WithKind(manifest.KindPrecondition,
		errors.New("btfgen: bpftool is not there, which picks the types that the program needs"),
		"Install it (Debian: apt-get install bpftool), version 5.17 of the kernel or later.")
}

func (c *compilation) openBTFHub() (*os.Root, error) {
	root, err := os.OpenRoot(c.BTFHub)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("btfgen: there is no btfhub archive %s", c.BTFHub),
			"Get it, which is several GB:\n"+
				"  git clone --depth 1 https://github.com/aquasecurity/btfhub-archive "+c.BTFHub+"\n"+
				"or name a folder with the kernels that you need, as ID/VERSION_ID/ARCH/RELEASE"+packedBTF+", with --btfhub-archive.")
	}
	if err != nil {
		return nil, fmt.Errorf("btfgen: open the btfhub archive: %w", err)
	}
	return root, nil
}

// listBTFHub returns the files of the archive with kernels of the object's
// architecture, sorted. Upstream takes those of all, but a program's registers
// and system calls are those of one.
func (c *compilation) listBTFHub(root *os.Root) ([]string, error) {
	machines := manifest.BTFMachines(unameMachine(c.Arch))
	var kernels []string
	err := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir // such as .git
		case entry.IsDir() || !strings.HasSuffix(name, packedBTF):
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("%s is not a file, but %s", name, entry.Type())
		case !manifest.IsBTFPath(strings.TrimSuffix(name, packedBTF) + ".btf"):
			c.Log.Warn(fmt.Sprintf("btfgen: %s is left out: its path is not ID/VERSION_ID/ARCH/RELEASE%s", name, packedBTF))
			return nil
		}
		if slices.Contains(machines, path.Base(path.Dir(name))) {
			kernels = append(kernels, name)
		}
		if len(kernels) > maxKernels {
			return fmt.Errorf("more than %d kernels", maxKernels)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(kernels) == 0 {
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("it has no kernel of %s", strings.Join(machines, " or ")),
			"Its files are ID/VERSION_ID/ARCH/RELEASE"+packedBTF+".")
	}
	return kernels, nil
}

// unameMachine is the name of an architecture (GOARCH) in uname -m.
func unameMachine(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "386":
		return "i686"
	case "loong64":
		return "loongarch64"
	}
	return goarch
}

// unpackBTF returns the types in a file of the archive: the only file of the tar
// in it. Nothing of the tar is written, so that its names do no harm.
//
// A crafted xz may ask for a dictionary of 4 GiB. That is address space only:
// memory is taken as the dictionary fills, which is bounded by what is read.
func unpackBTF(root *os.Root, name string) ([]byte, error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	packed, err := manifest.ReadBounded(file, maxPackedBTF)
	if err != nil {
		return nil, err
	}
	unpacked, err := xz.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	// A tar adds its headers, and whatever is in front of the file is skipped.
	archive := tar.NewReader(io.LimitReader(unpacked, manifest.MaxBTFSize+1<<20))
	for {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("no types in it")
		case err != nil:
			return nil, err
		case header.Typeflag == tar.TypeDir:
			continue
		case header.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("%s in it is not a file", header.Name)
		case path.Base(header.Name) != strings.TrimSuffix(path.Base(name), packedBTF)+".btf":
			return nil, fmt.Errorf("%s in it is not the types of that kernel", header.Name)
		}
		return manifest.ReadBounded(archive, manifest.MaxBTFSize)
	}
}

// btfFiles returns the files that --btfgen adds to the results: upstream's tar,
// and the folder from which upstream makes it.
func (c *compilation) btfFiles(kernels []manifest.ArchivedBTF, packed, object []byte) ([]outputFile, error) {
	var files []outputFile
	for _, k := range kernels {
		files = append(files, outputFile{name: path.Join(customArchive, manifest.BTFArchiveFolder, k.Path), data: k.Data})
	}
	archive, err := btfTar(kernels, packed, object, c.name)
	if err != nil {
		return nil, fmt.Errorf("btfgen: %w", err)
	}
	return append(files, outputFile{name: c.name + ".tar", data: archive}), nil
}

// btfTar is a package with the types of kernels, in the order and under the
// names of upstream: folders without a slash behind them.
func btfTar(kernels []manifest.ArchivedBTF, packed, object []byte, name string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, kind byte, mode int64, data []byte) error {
		err := w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Size: int64(len(data)), Mode: mode, ModTime: sourceDate(), Format: tar.FormatGNU})
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	folders := map[string]bool{"": true, ".": true}
	var addFolder func(string) error
	addFolder = func(dir string) error {
		if folders[dir] {
			return nil
		}
		folders[dir] = true
		if err := addFolder(path.Dir(dir)); err != nil {
			return err
		}
		return add(dir, tar.TypeDir, 0o755, nil)
	}
	errs := []error{add("./", tar.TypeDir, 0o755, nil), addFolder(manifest.BTFArchiveFolder)}
	for _, k := range kernels {
		file := path.Join(manifest.BTFArchiveFolder, k.Path)
		errs = append(errs, addFolder(path.Dir(file)), add(file, tar.TypeReg, 0o644, k.Data))
	}
	errs = append(errs, add(manifest.PackageFile, tar.TypeReg, 0o644, packed), add(name, tar.TypeReg, 0o644, object), w.Close())
	return b.Bytes(), errors.Join(errs...)
}
