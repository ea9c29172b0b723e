// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BTFArchiveFolder is the folder of kernels' types in an archive, as in
// eunomia-bpf's tar of a package (spec sections A6 and D). Below it lie
// ID/VERSION_ID/ARCH/RELEASE.btf: os-release(5) of the distribution, uname -m
// and uname -r of the kernel.
const BTFArchiveFolder = "btfhub-archive"

const (
	btfSuffix = ".btf"
	// maxArchiveFiles bounds the entries of an archive. BTFHub knows about ten
	// thousand kernels.
	maxArchiveFiles = 1 << 17
	// maxArchiveSize bounds an archive, and what it unpacks to, in bytes.
	maxArchiveSize = 4 << 30
	// maxFoundBTF bounds the types that are held while one is chosen, in bytes.
	maxFoundBTF = 4 * MaxBTFSize
)

// ArchivedBTF is the types of one kernel.
type ArchivedBTF struct {
	// Path is ID/VERSION_ID/ARCH/RELEASE.btf.
	Path string
	// Data is raw BTF, at most [MaxBTFSize] bytes.
	Data []byte
}

// IsBTFPath reports whether name is ID/VERSION_ID/ARCH/RELEASE.btf.
func IsBTFPath(name string) bool {
	parts := strings.Split(name, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "\\\x00") {
			return false
		}
	}
	return len(parts) == 4 && strings.HasSuffix(name, btfSuffix) && len(parts[3]) > len(btfSuffix)
}

// Kernel says which kernel runs, so that its types can be found.
type Kernel struct {
	// Release, Version and Machine are those of uname(2).
	Release, Version, Machine string
	// ID and VersionID are those of os-release(5) of the system that the kernel
	// belongs to. Both are empty where that is not known: a container has
	// another.
	ID, VersionID string
}

// ParseOSRelease returns ID and VERSION_ID of an os-release file.
func ParseOSRelease(text []byte) (id, versionID string) {
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		switch name {
		case "ID":
			id = value
		case "VERSION_ID":
			versionID = value
		}
	}
	return id, versionID
}

// PackBTF returns btf.tar.gz: the types of kernels, sorted, below
// [BTFArchiveFolder]. The same types give the same bytes. created is that of
// the entries.
func PackBTF(kernels []ArchivedBTF, created time.Time) ([]byte, error) {
	kernels = slices.Clone(kernels)
	slices.SortFunc(kernels, func(a, b ArchivedBTF) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	packed, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(packed)
	for i, k := range kernels {
		if !IsBTFPath(k.Path) || i > 0 && kernels[i-1].Path == k.Path {
			return nil, fmt.Errorf("pack BTF: %s: not one ID/VERSION_ID/ARCH/RELEASE%s", k.Path, btfSuffix)
		}
		header := tar.Header{Typeflag: tar.TypeReg, Name: path.Join(BTFArchiveFolder, k.Path), Size: int64(len(k.Data)), Mode: 0o644, ModTime: created}
		if err := w.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("pack BTF: %s: %w", k.Path, err)
		}
		if _, err := w.Write(k.Data); err != nil {
			return nil, fmt.Errorf("pack BTF: %s: %w", k.Path, err)
		}
	}
	if err := errors.Join(w.Close(), packed.Close()); err != nil {
		return nil, fmt.Errorf("pack BTF: %w", err)
	}
	if b.Len() > MaxBTFArchiveSize {
		return nil, WithKind(KindUsage, fmt.Errorf("pack BTF: %d bytes, at most %d are allowed", b.Len(), MaxBTFArchiveSize),
			"Keep in the archive only the kernels that the package shall run on.")
	}
	return b.Bytes(), nil
}

// FindBTF returns the types of k from a tar, compressed by gzip or not. It
// reads btf.tar.gz as well as eunomia-bpf's tar of a package; other entries are
// passed by. Nothing is written, so that the names of entries do no harm.
//
// A release may be there for several distributions. Where the types differ,
// they are those of the distribution that Kernel names, else of the one that
// uname -v tells: Debian and Ubuntu put their name there, and Ubuntu marks a
// kernel that was built for an older release of it (~18.04). An archive without
// the kernel, or one that leaves the choice open, is [KindPrecondition].
func FindBTF(r io.Reader, k Kernel) ([]byte, error) {
	found, err := btfOfRelease(r, k)
	if err != nil {
		return nil, fmt.Errorf("read the BTF archive: %w", err)
	}
	if len(found) == 0 {
		return nil, WithKind(KindPrecondition,
			fmt.Errorf("the BTF archive of the package has no types of the kernel %s (%s)", k.Release, k.Machine),
			"Build the package again with this kernel in the btfhub archive, or run it on a kernel with CONFIG_DEBUG_INFO_BTF.")
	}
	if found = narrow(found, k); len(found) > 1 {
		var paths []string
		for _, b := range found {
			paths = append(paths, b.Path)
		}
		return nil, WithKind(KindPrecondition,
			fmt.Errorf("the BTF archive has several types of the kernel %s (%s): %s", k.Release, k.Version, strings.Join(paths, ", ")),
			"Name the right file with BTF_FILE_PATH, or build the package with one of them only.")
	}
	return found[0].Data, nil
}

// btfOfRelease returns what an archive has for the release and machine of k.
func btfOfRelease(r io.Reader, k Kernel) ([]ArchivedBTF, error) {
	archive, err := openTar(r)
	if err != nil {
		return nil, err
	}
	var found []ArchivedBTF
	total := 0
	for range maxArchiveFiles {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return nil, err
		}
		name, ok := strings.CutPrefix(strings.TrimPrefix(header.Name, "./"), BTFArchiveFolder+"/")
		if !ok || header.Typeflag != tar.TypeReg || !IsBTFPath(name) || !k.matches(name) {
			continue
		}
		data, err := ReadBounded(archive, MaxBTFSize)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if total += len(data); total > maxFoundBTF {
			return nil, fmt.Errorf("%w: the types of %s have more than %d bytes", ErrTooLarge, k.Release, maxFoundBTF)
		}
		found = append(found, ArchivedBTF{name, data})
	}
	return nil, fmt.Errorf("%w: more than %d entries", ErrTooLarge, maxArchiveFiles)
}

func (k Kernel) matches(name string) bool {
	dir, file := path.Split(name)
	return file == k.Release+btfSuffix && slices.Contains(BTFMachines(k.Machine), path.Base(dir))
}

// BTFMachines returns the names of a machine's folder: that of uname -m, and
// BTFHub's where it has its own.
func BTFMachines(machine string) []string {
	if machine == "aarch64" {
		return []string{"aarch64", "arm64"}
	}
	return []string{machine}
}

// ubuntuRelease matches the mark of an Ubuntu kernel that was built for a
// release that it did not come with: #46~18.04.1-Ubuntu.
var ubuntuRelease = regexp.MustCompile(`~(\d+\.\d+)`)

// narrow leaves those of found that k can have.
func narrow(found []ArchivedBTF, k Kernel) []ArchivedBTF {
	id := func(b ArchivedBTF) string { return strings.Split(b.Path, "/")[0] }
	version := func(b ArchivedBTF) string { return strings.Split(b.Path, "/")[1] }
	keep := func(ok func(ArchivedBTF) bool) {
		if some := slices.DeleteFunc(slices.Clone(found), func(b ArchivedBTF) bool { return !ok(b) }); len(some) > 0 {
			found = some
		}
	}
	if k.ID != "" {
		keep(func(b ArchivedBTF) bool { return id(b) == k.ID && version(b) == k.VersionID })
	}
	keep(func(b ArchivedBTF) bool { return strings.Contains(strings.ToLower(k.Version), strings.ToLower(id(b))) })
	if mark := ubuntuRelease.FindStringSubmatch(k.Version); mark != nil {
		keep(func(b ArchivedBTF) bool { return version(b) == mark[1] })
	} else if strings.Contains(k.Version, "-Ubuntu") {
		// Kernels go from a release to older ones.
		newest := slices.MaxFunc(found, func(a, b ArchivedBTF) int { return slices.Compare(numbers(version(a)), numbers(version(b))) })
		keep(func(b ArchivedBTF) bool { return version(b) == version(newest) })
	}
	// Equal types are no choice.
	return slices.CompactFunc(found, func(a, b ArchivedBTF) bool { return bytes.Equal(a.Data, b.Data) })
}

func numbers(version string) []int {
	var all []int
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part)
		all = append(all, n)
	}
	return all
}
