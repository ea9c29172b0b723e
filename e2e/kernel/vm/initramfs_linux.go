// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// An initramfs is written in the format "newc" of cpio, which the kernel
// unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
type initramfs struct {
	w       *bufio.Writer
	inode   int
	size    int64
	folders map[string]bool
}

func newInitramfs(w io.Writer) *initramfs {
	return &initramfs{w: bufio.NewWriterSize(w, 1<<20), folders: map[string]bool{".": true, "/": true}}
}

func (r *initramfs) header(name string, mode uint32, size int64) error {
	r.inode++
	const links, date, major, minor = 1, 0, 0, 0
	n, err := fmt.Fprintf(r.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		r.inode, mode, 0, 0, links, date, size, major, minor, major, minor, len(name)+1, 0, name)
	r.size += int64(n)
	return errors.Join(err, r.pad())
}

// pad fills up to a multiple of four bytes.
func (r *initramfs) pad() error {
	for ; r.size%4 != 0; r.size++ {
		if err := r.w.WriteByte(0); err != nil {
			return err
		}
	}
	return nil
}

// folder adds a folder and those above it.
func (r *initramfs) folder(name string) error {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" || r.folders[name] {
		return nil
	}
	if err := r.folder(path.Dir(name)); err != nil {
		return err
	}
	r.folders[name] = true
	return r.header(name, 0o040755, 0)
}

// file adds a file of that many bytes.
func (r *initramfs) file(name string, mode fs.FileMode, size int64, content io.Reader) error {
	name = strings.Trim(path.Clean("/"+name), "/")
	if err := r.folder(path.Dir(name)); err != nil {
		return err
	}
	if err := r.header(name, 0o100000|uint32(mode.Perm()), size); err != nil {
		return err
	}
	n, err := io.Copy(r.w, io.LimitReader(content, size))
	r.size += n
	if err == nil && n != size {
		err = fmt.Errorf("pack %s: it ended after %d of %d bytes", name, n, size)
	}
	return errors.Join(err, r.pad())
}

func (r *initramfs) bytes(name string, mode fs.FileMode, content string) error {
	return r.file(name, mode, int64(len(content)), strings.NewReader(content))
}

// copy adds the host's file or folder from as name. A symbolic link to a file
// is the file.
func (r *initramfs) copy(name, from string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return r.folder(path.Join(name, filepath.ToSlash(rel)))
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("pack %s: it is neither a file nor a folder", file)
		}
		return r.file(path.Join(name, filepath.ToSlash(rel)), info.Mode(), info.Size(), f)
	})
}

func (r *initramfs) close() error {
	return errors.Join(r.header("TRAILER!!!", 0, 0), r.w.Flush())
}
