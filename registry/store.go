// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Store is a local OCI layout whose names are full references. Any number of
// processes may use it at once. What it hands out is verified each time.
type Store struct{ l *layout }

// Entry is one package of a [Store].
type Entry struct {
	// Reference is its name, with the digest.
	Reference manifest.Reference
	// Size is what it takes in the store, in bytes.
	Size int64
	// Platforms are those that the store has whole, sorted.
	Platforms []manifest.Platform
	// Name, Version and Description are the package's own words.
	Name, Version, Description string
	// Created is the time in the package (SOURCE_DATE_EPOCH), Used that of its
	// last use.
	Created, Used time.Time
	// Err says why the package cannot be read, for instance because its bytes
	// were changed.
	Err error
}

// OpenStore returns the store in a folder. Nothing is written until the first
// package is; a folder that holds something else is an error of
// [manifest.KindUsage].
func OpenStore(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{l: newLayout(dir)}
	_, err = s.l.reader().readIndex()
	if errors.Is(err, fs.ErrNotExist) {
		err = s.l.checkFree()
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.l.dir }

// storePlace is the store as a place; its names are whole references.
type storePlace struct {
	layoutReader
	*layout
	moved bool // a name went from one package to another
}

var _ place = (*storePlace)(nil)

func (s *Store) place() *storePlace { return &storePlace{layoutReader: s.l.reader(), layout: s.l} }

// nameOf is what index.json calls a reference: without a digest where there is a
// tag.
func nameOf(ref manifest.Reference) string {
	if ref.Tag != "" {
		ref.Digest = ""
	}
	return ref.String()
}

// index reads index.json; a store that was never written to is empty.
func (p *storePlace) index() (*ocispec.Index, error) {
	index, err := p.readIndex()
	if errors.Is(err, fs.ErrNotExist) {
		return &ocispec.Index{}, nil
	}
	return index, err
}

// names reports whether a name of the store stands for the digest of ref: that
// of its tag, or for a reference without a tag any.
func (p *storePlace) names(ref manifest.Reference) bool {
	index, err := p.index()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Digest == ref.Digest && (ref.Tag == "" || d.Annotations[ocispec.AnnotationRefName] == nameOf(ref))
	})
}

func (p *storePlace) root(_ context.Context, ref manifest.Reference) (*root, error) {
	d := ref.Digest
	if ref.Tag != "" {
		index, err := p.index()
		if err != nil {
			return nil, err
		}
		entry := named(index, nameOf(ref))
		if entry == nil {
			return nil, notInStore(fmt.Errorf("the store %s does not have it: %w", p.dir, errdef.ErrNotFound))
		}
		if err := agree(ref, entry.Digest); err != nil {
			return nil, err
		}
		d = entry.Digest
	}
	r, err := p.byDigest(d)
	if errors.Is(err, errdef.ErrNotFound) {
		err = notInStore(err)
	}
	if err == nil {
		p.touch(d)
	}
	return r, err
}

func notInStore(err error) error {
	return manifest.WithKind(manifest.KindNotFound, err, "Build it (`ebpm build`) or pull it (`ebpm pull`).")
}

func (p *storePlace) name(ctx context.Context, ref manifest.Reference, r *root) error {
	return p.updateIndex(ctx, func(index *ocispec.Index) error {
		name := nameOf(ref)
		if d := named(index, name); d != nil && d.Digest != r.Digest {
			p.moved = true
		}
		setName(index, name, r)
		return nil
	})
}

func (p *storePlace) tags(context.Context) ([]string, error) {
	index, err := p.index()
	if err != nil {
		return nil, err
	}
	return namesOf(index), nil
}

// write calls f with the store as a place to write to. When a name moved from
// one package to another, what nothing names any more is removed.
func (s *Store) write(ctx context.Context, f func(place) error) error {
	release, err := s.l.beginWrite(ctx)
	if err != nil {
		return err
	}
	to := s.place()
	err = f(to)
	release()
	if err == nil && to.moved {
		err = s.collect(ctx)
	}
	return err
}

// collect removes what nothing names, unless another process is writing: then
// the next one does it.
func (s *Store) collect(ctx context.Context) error {
	_, err := s.trim(ctx, noLimit, nil, 0)
	if errors.Is(err, errLocked) {
		return nil
	}
	return err
}

// Put writes an artifact into the store under a name, and returns the name with
// its digest. A name that stood for another package moves.
func (s *Store) Put(ctx context.Context, a *Artifact, ref manifest.Reference) (manifest.Reference, error) {
	ref = ref.WithDefaultTag()
	if ref.Digest != "" && ref.Digest != a.Digest {
		return ref, manifest.WithKind(manifest.KindUsage, fmt.Errorf("store %s: what is written has digest %s", ref, a.Digest), "")
	}
	if err := s.keep(ctx, a.blobs, rootOf(a), ref); err != nil {
		return ref, explain("store", ref, err)
	}
	return ref.WithDigest(a.Digest), nil
}

// keep writes verified blobs, the root's among them, and a name.
func (s *Store) keep(ctx context.Context, blobs map[digest.Digest][]byte, r *root, ref manifest.Reference) error {
	return s.write(ctx, func(to place) error {
		for d, data := range blobs {
			err := s.l.writeBlob(ctx, ocispec.Descriptor{Digest: d, Size: int64(len(data))}, data)
			if err != nil {
				return err
			}
		}
		return to.name(ctx, ref, r)
	})
}

// Resolve returns ref with the digest that it names in the store. A name that
// the store does not have gives an error of [manifest.KindNotFound].
func (s *Store) Resolve(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	ref = ref.WithDefaultTag()
	r, err := s.place().root(ctx, ref)
	if err != nil {
		return ref, explain("resolve", ref, err)
	}
	return ref.WithDigest(r.Digest), nil
}

// Fetch reads the package for a platform. Its errors are of
// [manifest.KindNotFound] where the store does not have it, and of
// [manifest.KindUnverified] where its bytes were changed.
func (s *Store) Fetch(ctx context.Context, ref manifest.Reference, platform manifest.Platform) (*Pulled, error) {
	ref = ref.WithDefaultTag()
	from := s.place()
	r, err := from.root(ctx, ref)
	if err != nil {
		return nil, explain("fetch", ref, err)
	}
	p, err := fetchFrom(ctx, from, r, ref, platform)
	if errors.Is(err, errdef.ErrNotFound) && !hasKind(err) {
		err = notInStore(err)
	}
	if err != nil {
		return nil, explain("fetch", ref, err)
	}
	p.Cached = true
	return p, nil
}

// List lists the packages of the store, sorted by name.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	from := s.place()
	index, err := from.index()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var entries []Entry
	for _, d := range index.Manifests {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ref, err := manifest.ParseReference(d.Annotations[ocispec.AnnotationRefName], "")
		if err != nil {
			// Written by another tool, under a name of its own.
			continue
		}
		e := Entry{Reference: ref.WithDigest(d.Digest)}
		e.Err = s.describe(ctx, &e)
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Reference.String(), b.Reference.String()) })
	return entries, nil
}

func (s *Store) describe(ctx context.Context, e *Entry) error {
	from := s.place()
	r, err := from.byDigest(e.Reference.Digest)
	if err != nil {
		return err
	}
	if info, err := os.Stat(filepath.Join(s.l.dir, filepath.FromSlash(blobName(r.Digest)))); err == nil {
		e.Used = info.ModTime()
	}
	blobs := map[digest.Digest]int64{}
	if err := from.walk(ctx, r.Descriptor, blobs); err != nil {
		return err
	}
	for _, size := range blobs {
		e.Size += size
	}
	index, err := newIndex(e.Reference, r)
	if err != nil {
		return err
	}
	e.Name = index.Annotations[ocispec.AnnotationTitle]
	e.Version = index.Annotations[ocispec.AnnotationVersion]
	e.Description = index.Annotations[ocispec.AnnotationDescription]
	// What another tool wrote there may be no time; then there is none.
	e.Created, _ = time.Parse(time.RFC3339, index.Annotations[ocispec.AnnotationCreated])
	for _, child := range index.Platforms {
		if whole, err := from.Exists(ctx, child.descriptor()); err != nil {
			return err
		} else if whole {
			e.Platforms = append(e.Platforms, child.Platform)
		}
	}
	return nil
}

// walk notes the blobs that are there below a manifest, with their sizes.
// Nothing below a manifest that is absent or damaged can be used, so nothing of
// it counts.
func (l layoutReader) walk(ctx context.Context, d ocispec.Descriptor, blobs map[digest.Digest]int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, seen := blobs[d.Digest]; seen {
		return nil
	}
	f, size, err := l.fsys.open(blobName(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	blobs[d.Digest] = size
	if !isManifestType(d.MediaType) {
		return nil
	}
	data, err := fetchAll(ctx, l, d)
	if err != nil {
		return missing(err)
	}
	successors, err := successorsOf(d, data)
	if err != nil {
		//nolint:nilerr // Not a package: another tool's, of which only the root is known.
		return nil
	}
	for _, s := range successors {
		if err := l.walk(ctx, s, blobs); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes a name away: a tag, or with a digest alone all names of the
// package of that repository. What nothing names any more is removed with it,
// unless another process is writing; then the next Remove or Trim does it.
func (s *Store) Remove(ctx context.Context, ref manifest.Reference) error {
	ref = ref.WithDefaultTag()
	index, err := s.place().index()
	if err != nil {
		return explain("remove", ref, err)
	}
	if !slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool { return isEntryOf(ref, d) }) {
		return explain("remove", ref, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("the store %s does not have it", s.l.dir), ""))
	}
	release, err := s.l.beginWrite(ctx)
	if err != nil {
		return explain("remove", ref, err)
	}
	err = s.l.updateIndex(ctx, func(index *ocispec.Index) error {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return isEntryOf(ref, d) })
		return nil
	})
	release()
	if err != nil {
		return explain("remove", ref, err)
	}
	return explain("remove", ref, s.collect(ctx))
}

func isEntryOf(ref manifest.Reference, d ocispec.Descriptor) bool {
	name := d.Annotations[ocispec.AnnotationRefName]
	if ref.Tag != "" {
		return name == nameOf(ref) && (ref.Digest == "" || ref.Digest == d.Digest)
	}
	parsed, err := manifest.ParseReference(name, "")
	return err == nil && d.Digest == ref.Digest && parsed.Context() == ref.Context()
}

const noLimit = int64(1) << 62

// Trim removes packages, the least recently used first, until the store has at
// most maxBytes, and whatever no package needs. A package whose digest keep
// names, or the digest of one of its platforms, stays. It returns how many bytes
// it freed. While another process writes to the store it waits, ten seconds at
// most, and then fails.
func (s *Store) Trim(ctx context.Context, maxBytes int64, keep []digest.Digest) (freed int64, err error) {
	freed, err = s.trim(ctx, maxBytes, keep, s.l.wait)
	if err != nil {
		err = fmt.Errorf("trim store %s: %w", s.l.dir, err)
	}
	return freed, err
}

func (s *Store) trim(ctx context.Context, maxBytes int64, keep []digest.Digest, wait time.Duration) (freed int64, err error) {
	if _, err := s.l.reader().readIndex(); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	release, err := s.l.lock(ctx, blobsLock, false, wait)
	if err != nil {
		return 0, err
	}
	defer release()

	from := s.place()
	index, err := from.index()
	if err != nil {
		return 0, err
	}
	packages, err := s.byUse(ctx, index, keep)
	if err != nil {
		return 0, err
	}
	stay, dropped := choose(packages, maxBytes)
	if len(dropped) > 0 {
		err := s.l.updateIndex(ctx, func(index *ocispec.Index) error {
			index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return dropped[d.Digest] })
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return s.sweep(stay)
}

// storedPackage is what Trim knows of a package.
type storedPackage struct {
	digest digest.Digest
	blobs  map[digest.Digest]int64
	used   time.Time
	kept   bool
}

// byUse returns the packages of an index, the most recently used first.
func (s *Store) byUse(ctx context.Context, index *ocispec.Index, keep []digest.Digest) ([]storedPackage, error) {
	from := s.place()
	var packages []storedPackage
	seen := map[digest.Digest]bool{}
	for _, d := range index.Manifests {
		if seen[d.Digest] || d.Digest.Validate() != nil {
			continue
		}
		seen[d.Digest] = true
		p := storedPackage{digest: d.Digest, blobs: map[digest.Digest]int64{}}
		if err := from.walk(ctx, d, p.blobs); err != nil {
			return nil, err
		}
		if info, err := os.Lstat(filepath.Join(s.l.dir, filepath.FromSlash(blobName(d.Digest)))); err == nil {
			p.used = info.ModTime()
		}
		p.kept = slices.ContainsFunc(keep, func(k digest.Digest) bool {
			_, has := p.blobs[k]
			return has
		})
		packages = append(packages, p)
	}
	slices.SortStableFunc(packages, func(a, b storedPackage) int {
		if a.kept != b.kept {
			if a.kept {
				return -1
			}
			return 1
		}
		return b.used.Compare(a.used)
	})
	return packages, nil
}

// choose decides, of packages in the order of their worth, which blobs stay and
// which packages go. A blob that several packages share counts once.
func choose(packages []storedPackage, maxBytes int64) (stay map[digest.Digest]bool, dropped map[digest.Digest]bool) {
	stay, dropped = map[digest.Digest]bool{}, map[digest.Digest]bool{}
	var total int64
	full := false
	for _, p := range packages {
		var more int64
		for d, size := range p.blobs {
			if !stay[d] {
				more += size
			}
		}
		// Once one had to go, those used longer ago go too.
		if full = full || total+more > maxBytes; full && !p.kept {
			dropped[p.digest] = true
			continue
		}
		total += more
		for d := range p.blobs {
			stay[d] = true
		}
	}
	return stay, dropped
}

// sweep removes the blobs that do not stay, and what interrupted writes left.
// The caller holds the lock of the blobs alone.
func (s *Store) sweep(stay map[digest.Digest]bool) (freed int64, err error) {
	blobs := filepath.Join(s.l.dir, filepath.FromSlash(blobsDir))
	for _, dir := range []string{s.l.dir, blobs} {
		files, err := os.ReadDir(dir)
		if err != nil {
			return freed, err
		}
		for _, f := range files {
			d := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
			unnamed := dir == blobs && d.Validate() == nil && !stay[d]
			if !unnamed && !strings.HasPrefix(f.Name(), tempPrefix) {
				continue
			}
			if info, err := f.Info(); err == nil {
				freed += info.Size()
			}
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return freed, err
			}
		}
	}
	return freed, nil
}
