// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// node is one entry of a [tree].
type node struct {
	typ  byte   // tar.TypeDir, tar.TypeReg or tar.TypeSymlink
	mode int64  // permission bits
	link string // what a symlink holds
	data []byte // the content of a small file
	file string // where a large file's content is, on this machine
	size int64
	pkg  string // the Debian package it comes from
}

// open returns the content of a regular file.
func (n *node) open() (io.ReadCloser, error) {
	if n.file == "" {
		return io.NopCloser(bytes.NewReader(n.data)), nil
	}
	return os.Open(n.file)
}

// tree is a file system to be: entries by their path, which has no leading
// slash. Parent folders need no entry of their own.
type tree map[string]*node

func (t tree) addDir(name string, mode int64) {
	t[name] = &node{typ: tar.TypeDir, mode: mode}
}

func (t tree) addLink(name, target string) {
	t[name] = &node{typ: tar.TypeSymlink, mode: 0o777, link: target}
}

func (t tree) addData(name string, mode int64, data []byte) {
	t[name] = &node{typ: tar.TypeReg, mode: mode, data: data, size: int64(len(data))}
}

// maxLinks is how many symlinks a path may lead through, as in the kernel.
const maxLinks = 40

// resolve follows symlinks in every component of name, on a system whose /lib
// and the like are links into /usr. It returns where name
// leads and the links on the way. The end of the way need not be in t as an
// entry; it may be a folder that others imply, or be missing.
func (t tree) resolve(name string) (real string, links []string, err error) {
	split := func(name string) []string {
		return strings.Split(mergedUsr(strings.Trim(path.Clean("/"+name), "/")), "/")
	}
	todo := split(name)
	at := ""
	for len(todo) > 0 {
		next := path.Join(at, todo[0])
		todo = todo[1:]
		n, ok := t[next]
		if !ok || n.typ != tar.TypeSymlink {
			at = next
			continue
		}
		if links = append(links, next); len(links) > maxLinks {
			return "", nil, fmt.Errorf("resolve %s: more than %d symlinks", name, maxLinks)
		}
		target := n.link
		if !path.IsAbs(target) {
			target = path.Join("/", at, target)
		}
		todo = split(path.Join(append([]string{target}, todo...)...))
		at = ""
	}
	return at, links, nil
}

// packages returns the names of those Debian packages of which t has something.
func (t tree) packages() map[string]bool {
	names := map[string]bool{}
	for _, n := range t {
		if n.pkg != "" {
			names[n.pkg] = true
		}
	}
	return names
}

// withParents returns t's paths and those of all their parent folders, sorted.
func (t tree) withParents() []string {
	all := make(map[string]bool, len(t))
	for name := range t {
		for ; name != "."; name = path.Dir(name) {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// writeTar writes t to w: sorted, owned by root, every time set to mtime.
// Folders that t does not name are of mode 0755.
func (t tree) writeTar(ctx context.Context, w io.Writer, mtime time.Time) error {
	tw := tar.NewWriter(w)
	for _, name := range t.withParents() {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, ok := t[name]
		if !ok {
			n = &node{typ: tar.TypeDir, mode: 0o755}
		}
		h := &tar.Header{
			Typeflag: n.typ,
			Name:     name,
			Linkname: n.link,
			Mode:     n.mode,
			Size:     n.size,
			ModTime:  mtime,
		}
		if n.typ == tar.TypeDir {
			h.Name += "/"
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write tar entry %s: %w", name, err)
		}
		if n.typ != tar.TypeReg {
			continue
		}
		if err := copyNode(tw, n); err != nil {
			return fmt.Errorf("write tar entry %s: %w", name, err)
		}
	}
	return tw.Close()
}

func copyNode(w io.Writer, n *node) error {
	r, err := n.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// identity adds what both images have: the usual folders, and the users root
// and nonroot.
func (t tree) identity() {
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "usr/local/bin"} {
		t.addDir(dir, 0o755)
	}
	t.addDir("root", 0o700)
	t.addDir("tmp", 0o1777)
	t.addData("etc/passwd", 0o644, fmt.Appendf(nil,
		"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:%[1]d:%[1]d:nonroot:/:/sbin/nologin\n", NonRoot))
	t.addData("etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\nnonroot:x:%d:\n", NonRoot))
}
