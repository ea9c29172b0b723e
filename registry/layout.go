// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

const (
	// Two locks, so that a process that reads a slow registry does not keep
	// another from naming what it has. Both are of flock(2): the kernel lets go
	// of those of a process that dies.
	//
	// indexLock is held, alone, while index.json is read, changed and written.
	indexLock = ".index.lock"
	// blobsLock is held, shared, from the first blob that a write brings until
	// its name is in index.json, and alone while unnamed blobs are removed.
	blobsLock = ".blobs.lock"

	lockTimeout = 10 * time.Second
	lockPoll    = 20 * time.Millisecond

	blobsDir   = "blobs/sha256"
	tempPrefix = ".tmp-"

	maxLayoutFileSize = 4 << 10
)

// errLocked is found by errors.Is where another process kept a lock for too long.
var errLocked = errors.New("another process keeps it locked")

// layoutFS opens the files of an OCI layout by their slash-separated names.
type layoutFS interface {
	// open returns a regular file and its size.
	open(name string) (io.ReadCloser, int64, error)
	String() string
}

// dirFS is a layout in a folder.
type dirFS string

func (d dirFS) String() string { return string(d) }

// open does not follow a link and does not wait for the writer of a pipe: root
// may read the store of another user.
func (d dirFS) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.openFile(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (d dirFS) openFile(name string) (*os.File, error) {
	path := filepath.Join(string(d), filepath.FromSlash(name))
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// layoutReader reads an OCI layout.
type layoutReader struct{ fsys layoutFS }

func blobName(d digest.Digest) string { return blobsDir + "/" + d.Encoded() }

// Fetch reads and verifies a blob or manifest.
func (l layoutReader) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, unverified(err)
	}
	f, _, err := l.fsys.open(blobName(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s in %s: %w", d.Digest, l.fsys, errdef.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d.Digest, err)
	}
	defer f.Close()
	data, err := readVerified(f, d)
	if err != nil {
		return nil, fmt.Errorf("read blob in %s: %w", l.fsys, err)
	}
	return reader(data), nil
}

// Exists reports whether a blob is there undamaged, and of a manifest also all
// that it names: an interrupted copy, or one for a single platform, leaves an
// index without some of its children.
func (l layoutReader) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	data, err := fetchAll(ctx, l, d)
	if err != nil {
		return false, missing(err)
	}
	successors, err := successorsOf(d, data)
	if err != nil {
		return false, unverified(err)
	}
	for _, s := range successors {
		if exists, err := l.Exists(ctx, s); !exists {
			return false, err
		}
	}
	return true, nil
}

// missing returns nil when err says that bytes are absent or damaged: both are
// mended by writing them again.
func missing(err error) error {
	if errors.Is(err, errdef.ErrNotFound) || manifest.KindOf(err) == manifest.KindUnverified {
		return nil
	}
	return err
}

// byDigest reads a manifest of which only the digest is known.
func (l layoutReader) byDigest(d digest.Digest) (*root, error) {
	if err := d.Validate(); err != nil {
		return nil, unverified(err)
	}
	f, _, err := l.fsys.open(blobName(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s in %s: %w", d, l.fsys, errdef.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open manifest %s: %w", d, err)
	}
	defer f.Close()
	data, err := readBounded(f, manifest.MaxManifestSize)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s in %s: %w", d, l.fsys, err)
	}
	if actual := digest.FromBytes(data); actual != d {
		return nil, unverified(fmt.Errorf("manifest %s in %s has other bytes, of digest %s", d, l.fsys, actual))
	}
	return newRoot(data)
}

// readIndex reads index.json. A folder that is not a layout gives an error that
// is fs.ErrNotExist.
func (l layoutReader) readIndex() (*ocispec.Index, error) {
	data, err := l.readFile("index.json", manifest.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	head, err := l.readFile("oci-layout", maxLayoutFileSize)
	if err != nil {
		return nil, err
	}
	var version ocispec.ImageLayout
	if err := json.Unmarshal(head, &version); err != nil {
		return nil, fmt.Errorf("decode %s/oci-layout: %w", l.fsys, err)
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s is an OCI layout of version %q, wanted %s", l.fsys, version.Version, ocispec.ImageLayoutVersion)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("decode %s/index.json: %w", l.fsys, err)
	}
	return &index, nil
}

func (l layoutReader) readFile(name string, limit int64) ([]byte, error) {
	f, _, err := l.fsys.open(name)
	if err != nil {
		return nil, fmt.Errorf("%s is not an OCI layout: %w", l.fsys, err)
	}
	defer f.Close()
	data, err := readBounded(f, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s/%s: %w", l.fsys, name, err)
	}
	return data, nil
}

// layout writes an OCI layout in a folder.
type layout struct {
	dir string
	// wait is how long a lock is waited for.
	wait time.Duration
}

func newLayout(dir string) *layout { return &layout{dir: dir, wait: lockTimeout} }

func (l *layout) reader() layoutReader { return layoutReader{dirFS(l.dir)} }

// lock takes a lock of the layout and returns what lets go of it. It waits for it
// no longer than wait.
func (l *layout) lock(ctx context.Context, name string, shared bool, wait time.Duration) (func(), error) {
	// A flock of its own for each use: one that is shared by goroutines would
	// not keep them apart.
	f := flock.New(filepath.Join(l.dir, name))
	try := f.TryLock
	if shared {
		try = f.TryRLock
	}
	deadline := time.Now().Add(wait)
	for {
		locked, err := try()
		if err == nil && !locked && time.Now().After(deadline) {
			err = fmt.Errorf("%w: waited %s", errLocked, wait)
		}
		if err == nil && !locked {
			err = sleep(ctx, lockPoll)
		}
		if err != nil {
			_ = f.Close() // Nothing was locked.
			return nil, fmt.Errorf("lock %s: %w", f.Path(), err)
		}
		if locked {
			// Closing the file lets go of the lock; there is nothing to do
			// about an error.
			return func() { _ = f.Close() }, nil
		}
	}
}

// beginWrite makes the layout where there is none, and keeps new blobs from
// being removed until the function that it returns is called.
func (l *layout) beginWrite(ctx context.Context) (func(), error) {
	_, err := l.reader().readIndex()
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return nil, err
	}
	if fresh {
		if err := l.checkFree(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(l.dir, filepath.FromSlash(blobsDir)), 0o755); err != nil {
		return nil, fmt.Errorf("make OCI layout: %w", err)
	}
	release, err := l.lock(ctx, blobsLock, true, l.wait)
	if err != nil {
		return nil, err
	}
	if fresh {
		// Made first of all, so that an interrupted write leaves a layout that
		// can be read.
		if err := l.updateIndex(ctx, func(*ocispec.Index) error { return nil }); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// checkFree refuses a folder with other things in it: naming it may be a typing
// error.
func (l *layout) checkFree() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make OCI layout: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		// What a process that makes the layout at this moment has made, and what
		// a file system has of its own.
		case name == "blobs", name == "oci-layout", name == "index.json", name == "lost+found", strings.HasPrefix(name, "."):
		default:
			return manifest.WithKind(manifest.KindUsage,
				fmt.Errorf("make OCI layout: %s is not an OCI layout, and has other files in it, such as %s", l.dir, name),
				"Name an empty folder, or one that does not exist.")
		}
	}
	return nil
}

// Push writes a blob or manifest.
func (l *layout) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	data, err := readVerified(r, d)
	if err != nil {
		return err
	}
	return l.writeBlob(ctx, d, data)
}

// writeBlob writes verified bytes. A blob that is there undamaged stays.
func (l *layout) writeBlob(ctx context.Context, d ocispec.Descriptor, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := l.reader().Fetch(ctx, d); err == nil {
		l.touch(d.Digest)
		return nil
	}
	path := filepath.Join(l.dir, filepath.FromSlash(blobName(d.Digest)))
	if err := writeFile(path, data, 0o444); err != nil {
		return fmt.Errorf("write blob %s: %w", d.Digest, err)
	}
	return nil
}

// touch notes that a blob was used. It changes the file that was opened, never
// one that a link names, and is no failure where that is not allowed.
func (l *layout) touch(d digest.Digest) {
	f, err := dirFS(l.dir).openFile(blobName(d))
	if err != nil {
		return
	}
	defer f.Close()
	now := syscall.NsecToTimeval(time.Now().UnixNano())
	_ = syscall.Futimes(int(f.Fd()), []syscall.Timeval{now, now})
}

// writeFile makes a file appear whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// syncDir makes renames in a folder last. Some file systems cannot; then they
// last when the system pleases.
func syncDir(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	_ = f.Sync()
}

// updateIndex changes index.json under its lock.
func (l *layout) updateIndex(ctx context.Context, change func(*ocispec.Index) error) error {
	release, err := l.lock(ctx, indexLock, false, l.wait)
	if err != nil {
		return err
	}
	defer release()

	index, err := l.reader().readIndex()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := l.create(); err != nil {
			return err
		}
		index = &ocispec.Index{}
	case err != nil:
		return err
	}
	before, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode index.json: %w", err)
	}
	if err := change(index); err != nil {
		return err
	}
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	index.MediaType = ocispec.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode index.json: %w", err)
	}
	if bytes.Equal(before, data) {
		return nil
	}
	if len(data) > manifest.MaxManifestSize {
		return manifest.WithKind(manifest.KindFailure,
			fmt.Errorf("write %s/index.json: %d bytes, at most %d are allowed", l.dir, len(data), manifest.MaxManifestSize),
			"Remove packages that nobody needs.")
	}
	// What the index names must last before the index does.
	syncDir(filepath.Join(l.dir, filepath.FromSlash(blobsDir)))
	if err := writeFile(filepath.Join(l.dir, "index.json"), data, 0o644); err != nil {
		return fmt.Errorf("write %s/index.json: %w", l.dir, err)
	}
	syncDir(l.dir)
	return nil
}

// create writes the file oci-layout.
func (l *layout) create() error {
	data, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return fmt.Errorf("encode oci-layout: %w", err)
	}
	if err := writeFile(filepath.Join(l.dir, "oci-layout"), data, 0o644); err != nil {
		return fmt.Errorf("write %s/oci-layout: %w", l.dir, err)
	}
	return nil
}

// setName makes a name of index.json stand for a manifest. Without a name the
// manifest is listed alone, unless it is there already.
func setName(index *ocispec.Index, name string, r *root) {
	entry := ocispec.Descriptor{
		MediaType:    r.MediaType,
		ArtifactType: r.ArtifactType,
		Digest:       r.Digest,
		Size:         r.Size,
	}
	if name != "" {
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	}
	for i, d := range index.Manifests {
		switch {
		case name == "" && d.Digest == r.Digest:
			return
		case name != "" && d.Annotations[ocispec.AnnotationRefName] == name:
			if d.Digest != r.Digest {
				index.Manifests[i] = entry
			}
			return
		}
	}
	index.Manifests = append(index.Manifests, entry)
}

func named(index *ocispec.Index, name string) *ocispec.Descriptor {
	i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == name
	})
	if i < 0 {
		return nil
	}
	return &index.Manifests[i]
}

// namesOf returns the names of an index, sorted.
func namesOf(index *ocispec.Index) []string {
	var names []string
	for _, d := range index.Manifests {
		if name := d.Annotations[ocispec.AnnotationRefName]; name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// layoutPlace is an OCI layout or archive that a reference names; its names are
// tags.
type layoutPlace struct {
	layoutReader
	*layout // nil where only reading was asked for
	ref     manifest.Reference
}

var _ place = (*layoutPlace)(nil)

func (p *layoutPlace) root(_ context.Context, ref manifest.Reference) (*root, error) {
	index, err := p.readIndex()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, manifest.WithKind(manifest.KindNotFound, err, "")
		}
		return nil, err
	}
	d := ref.Digest
	switch {
	case ref.Tag != "":
		entry := named(index, ref.Tag)
		if entry == nil {
			return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("no tag %s", ref.Tag),
				"Tags that are there: "+someOf(namesOf(index))+".")
		}
		d = entry.Digest
	case d == "":
		if d = defaultOf(index); d == "" {
			return nil, manifest.WithKind(manifest.KindUsage, errors.New("several packages are in it, or none, and no tag is named"),
				"Tags that are there: "+someOf(namesOf(index))+".")
		}
	}
	if err := agree(ref, d); err != nil {
		return nil, err
	}
	return p.byDigest(d)
}

// defaultOf returns what a reference without tag and digest means: the only
// package that has a name, or else the default tag. (Other tools list the
// children of an index too, without names.)
func defaultOf(index *ocispec.Index) digest.Digest {
	if d := named(index, manifest.DefaultTag); d != nil {
		return d.Digest
	}
	entries := slices.Clone(index.Manifests)
	if len(namesOf(index)) > 0 {
		entries = slices.DeleteFunc(entries, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == "" })
	}
	entries = slices.CompactFunc(entries, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	if len(entries) != 1 {
		return ""
	}
	return entries[0].Digest
}

// someOf lists words for a message that should stay short.
func someOf(words []string) string {
	const most = 10
	if len(words) == 0 {
		return "none"
	}
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	return strings.Join(words, ", ")
}

func (p *layoutPlace) name(ctx context.Context, ref manifest.Reference, r *root) error {
	return p.updateIndex(ctx, func(index *ocispec.Index) error {
		setName(index, ref.Tag, r)
		return nil
	})
}

func (p *layoutPlace) tags(context.Context) ([]string, error) {
	index, err := p.readIndex()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, manifest.WithKind(manifest.KindNotFound, err, "")
		}
		return nil, err
	}
	return namesOf(index), nil
}
