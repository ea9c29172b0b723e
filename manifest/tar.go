// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// TarPackage is what a package in a tar has.
type TarPackage struct {
	// JSON is its package.json, at most [MaxPackageSize] bytes.
	JSON []byte
	// HasBTF says that the tar has a [BTFArchiveFolder], for [FindBTF].
	HasBTF bool
}

// ReadTarPackage reads eunomia-bpf's tar of a package (spec sections A6 and D),
// compressed by gzip or not: package.json at its top, and types of kernels. Of
// several package.json the last counts, as for tar itself. An entry that leaves
// the archive, or a link in the place of what is read, is an error; nothing is
// written anywhere. At most 4 GiB are unpacked, in 131072 entries.
func ReadTarPackage(r io.Reader) (*TarPackage, error) {
	p, err := readTarPackage(r)
	if err != nil {
		return nil, fmt.Errorf("read tar: %w", err)
	}
	return p, nil
}

func readTarPackage(r io.Reader) (*TarPackage, error) {
	archive, err := openTar(r)
	if err != nil {
		return nil, err
	}
	var p TarPackage
	for range maxArchiveFiles {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && p.JSON == nil:
			return nil, fmt.Errorf("it has no %s at its top", PackageFile)
		case errors.Is(err, io.EOF):
			return &p, nil
		case err != nil:
			return nil, err
		}
		name := path.Clean(header.Name)
		if name == ".." || strings.HasPrefix(name, "../") || strings.HasPrefix(name, "/") {
			return nil, fmt.Errorf("the entry %q leaves the archive", header.Name)
		}
		switch top, _, _ := strings.Cut(name, "/"); {
		case top == BTFArchiveFolder:
			p.HasBTF = true
		case name != PackageFile:
			continue
		}
		switch header.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir:
			continue
		default:
			return nil, fmt.Errorf("the entry %q is neither a file nor a folder; links are not followed", header.Name)
		}
		if name != PackageFile {
			continue
		}
		if p.JSON, err = ReadBounded(archive, MaxPackageSize); err != nil {
			return nil, fmt.Errorf("%s: %w", header.Name, err)
		}
	}
	return nil, fmt.Errorf("%w: more than %d entries", ErrTooLarge, maxArchiveFiles)
}

// openTar reads a tar, compressed by gzip or not, of at most [maxArchiveSize] bytes.
func openTar(r io.Reader) (*tar.Reader, error) {
	// The unpacked size bounds no gzip that unpacks to nothing.
	in := bufio.NewReader(&boundedReader{r: r, n: maxArchiveSize})
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		return tar.NewReader(&boundedReader{r: unpacked, n: maxArchiveSize}), nil
	}
	return tar.NewReader(in), nil
}

// boundedReader gives n bytes of r, and then an error where r has more.
type boundedReader struct {
	r io.Reader
	n int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > b.n+1 {
		p = p[:b.n+1]
	}
	n, err := b.r.Read(p)
	if int64(n) > b.n {
		return int(b.n), fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(maxArchiveSize))
	}
	b.n -= int64(n)
	return n, err
}
