// SPDX-License-Identifier: Apache-2.0

package image

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
	"strconv"
	"strings"
)

// maxUnpacked bounds what one package may unpack to, in bytes.
const maxUnpacked = 2 << 30

// unpackDeb returns the entries of the Debian package pkg in file, those that
// [wanted] passes, with their contents in the folder spool.
func unpackDeb(ctx context.Context, pkg, file, spool string) (tree, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run dpkg-deb: %w", err)
	}
	// dpkg-deb decompresses in a child of its own, which no signal of ours
	// reaches: it ends when nobody can read what it writes.
	defer context.AfterFunc(ctx, func() { stdout.Close() })()
	bounded := &io.LimitedReader{R: stdout, N: maxUnpacked}
	t, readErr := readPackage(bounded, pkg, spool, maxUnpacked)
	if readErr == nil {
		// The archive's padding; dpkg-deb fails when nobody reads it.
		_, readErr = io.Copy(io.Discard, bounded)
	}
	if readErr != nil {
		stdout.Close()
	}
	waitErr := cmd.Wait()
	switch {
	case bounded.N == 0:
		return nil, fmt.Errorf("unpack package %s: it is larger than %d bytes", pkg, int64(maxUnpacked))
	case readErr != nil:
		return nil, fmt.Errorf("unpack package %s: %w", pkg, commandError(ctx, readErr, stderr.String()))
	case waitErr != nil:
		return nil, fmt.Errorf("unpack package %s: %w", pkg, commandError(ctx, waitErr, stderr.String()))
	}
	return t, nil
}

// readPackage reads the tar of package pkg. Folders are left out: a [tree]
// makes them up, all alike. The files may be limit bytes large, all together:
// a sparse one is larger than the tar.
func readPackage(r io.Reader, pkg, spool string, limit int64) (tree, error) {
	t := tree{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		if limit -= h.Size; limit < 0 {
			return nil, fmt.Errorf("entry %s: the files are too large", h.Name)
		}
		original := strings.Trim(path.Clean("/"+h.Name), "/")
		name := mergedUsr(original)
		if h.Typeflag == tar.TypeDir || !wanted(name) {
			continue
		}
		// Of the mode only the permissions: no program changes its user.
		n := &node{typ: h.Typeflag, mode: h.Mode & int64(fs.ModePerm), pkg: pkg}
		switch h.Typeflag {
		case tar.TypeReg:
			n.size = h.Size
			n.file = filepath.Join(spool, strconv.Itoa(len(t)))
			if err := spoolFile(n.file, tr); err != nil {
				return nil, fmt.Errorf("entry %s: %w", h.Name, err)
			}
		case tar.TypeLink:
			other, ok := t[mergedUsr(strings.Trim(path.Clean("/"+h.Linkname), "/"))]
			if !ok || other.typ != tar.TypeReg {
				return nil, fmt.Errorf("entry %s: it is a link to %s, which is not there", h.Name, h.Linkname)
			}
			n = other
		case tar.TypeSymlink:
			n.mode, n.link = 0o777, h.Linkname
			if name != original && !path.IsAbs(n.link) {
				// It was relative to the place that it has left.
				n.link = "/" + mergedUsr(path.Join(path.Dir(original), n.link))
			}
		default:
			return nil, fmt.Errorf("entry %s: a package should not hold an entry of type %q", h.Name, h.Typeflag)
		}
		t[name] = n
	}
}

func spoolFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// topFolders are those that Debian has merged into /usr; some packages still
// ship files in them.
var topFolders = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// mergedUsr returns where a file is on a system whose /bin, /lib and the like
// are links into /usr.
func mergedUsr(name string) string {
	for _, top := range topFolders {
		if name == top || strings.HasPrefix(name, top+"/") {
			return "usr/" + name
		}
	}
	return name
}

// wanted reports whether a file could be part of the image: it saves writing
// the other half of each package to disk.
func wanted(name string) bool {
	switch ext := path.Ext(name); {
	case ext == ".a", ext == ".o", ext == ".py":
		return false
	case strings.HasPrefix(name, "usr/share/doc/"):
		return path.Base(name) == "copyright" || strings.Count(name, "/") == 3 // the latter may be a link
	}
	for _, dir := range []string{"etc/", "usr/bin/", "usr/include/", "usr/lib", "usr/share/common-licenses/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}
