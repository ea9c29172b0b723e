// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxArchiveFiles is the number of files that an OCI archive may hold.
const maxArchiveFiles = 10000

// archiveFS is an OCI layout in a tar file, read in place.
type archiveFS struct {
	f     *os.File
	files map[string]archiveFile
}

type archiveFile struct{ offset, size int64 }

// openArchive finds the files of an OCI archive. Links and other special files
// in it are passed by.
func openArchive(name string) (*archiveFS, error) {
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, manifest.WithKind(manifest.KindNotFound, err, "")
		}
		return nil, err
	}
	a := &archiveFS{f: f, files: map[string]archiveFile{}}
	if err := a.scan(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read OCI archive %s: %w", name, err)
	}
	return a, nil
}

func (a *archiveFS) scan() error {
	r := tar.NewReader(a.f)
	for range maxArchiveFiles {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		// The reader does not buffer: the file's data begins where it stands.
		offset, err := a.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		a.files[path.Clean(header.Name)] = archiveFile{offset, header.Size}
	}
	return fmt.Errorf("over %d files", maxArchiveFiles)
}

func (a *archiveFS) open(name string) (io.ReadCloser, int64, error) {
	file, ok := a.files[name]
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(a.f, file.offset, file.size)), file.size, nil
}

func (a *archiveFS) String() string { return a.f.Name() }

// Close closes the tar file.
func (a *archiveFS) Close() error { return a.f.Close() }

// editArchive opens an OCI archive for writing: as a layout in a temporary
// folder, with what the archive holds already, that becomes the archive when
// the function that it returns is called without an error.
func editArchive(ctx context.Context, ref manifest.Reference) (place, func(error) error, error) {
	dir, err := os.MkdirTemp("", "ebpm-archive-")
	if err != nil {
		return nil, nil, fmt.Errorf("write OCI archive: %w", err)
	}
	l := newLayout(dir)
	release, err := l.beginWrite(ctx)
	if err == nil {
		if err = l.unpack(ctx, ref.Path); err != nil {
			release()
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &layoutPlace{layoutReader: l.reader(), layout: l, ref: ref}, func(err error) error {
		release()
		if err == nil {
			err = l.pack(ref.Path)
		}
		return errors.Join(err, os.RemoveAll(dir))
	}, nil
}

// unpack brings the verified blobs of an archive into the layout, and its names.
// An archive that does not exist is an empty one.
func (l *layout) unpack(ctx context.Context, name string) error {
	a, err := openArchive(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }() // It was only read.
	from := layoutReader{a}
	old, err := from.readIndex()
	if err != nil {
		return err
	}
	var total int64
	for file, entry := range a.files {
		if path.Dir(file) != blobsDir {
			continue
		}
		if total += entry.size; total > maxArtifactSize {
			return fmt.Errorf("read OCI archive %s: over %d bytes", name, maxArtifactSize)
		}
		d := ocispec.Descriptor{Digest: digest.NewDigestFromEncoded(digest.SHA256, path.Base(file)), Size: entry.size}
		data, err := fetchAll(ctx, from, d)
		if err != nil {
			return err
		}
		if err := l.writeBlob(ctx, d, data); err != nil {
			return err
		}
	}
	return l.updateIndex(ctx, func(index *ocispec.Index) error {
		index.Manifests, index.Annotations = old.Manifests, old.Annotations
		return nil
	})
}

// pack writes the layout as an OCI archive: the same content gives the same
// bytes, and the file appears whole or not at all.
func (l *layout) pack(name string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write OCI archive %s: %w", name, err)
		}
	}()
	blobs, err := os.ReadDir(filepath.Join(l.dir, filepath.FromSlash(blobsDir)))
	if err != nil {
		return err
	}
	files := []string{"oci-layout", "index.json"}
	for _, b := range blobs {
		files = append(files, blobsDir+"/"+b.Name())
	}
	slices.Sort(files[2:])

	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			out.Close()
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	buffered := bufio.NewWriter(out)
	w := tar.NewWriter(buffered)
	for _, file := range files {
		if strings.HasPrefix(path.Base(file), tempPrefix) {
			continue
		}
		if err := addFile(w, dirFS(l.dir), file); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), name)
}

func addFile(w *tar.Writer, fsys layoutFS, name string) error {
	f, size, err := fsys.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	err = w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     name,
		Size:     size,
		Mode:     0o644,
		ModTime:  time.Unix(0, 0),
		Format:   tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
