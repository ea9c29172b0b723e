// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
)

func put(t testing.TB, s *Store, name, version string) *Artifact {
	t.Helper()
	a := testArtifact(t, version)
	if _, err := s.Put(context.Background(), a, parse(t, name)); err != nil {
		t.Fatal(err)
	}
	return a
}

func blobPath(s *Store, d digest.Digest) string {
	return filepath.Join(s.Dir(), filepath.FromSlash(blobName(d)))
}

func countBlobs(t testing.TB, s *Store) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(s.Dir(), filepath.FromSlash(blobsDir)))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestStore(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	ref := parse(t, "10.77.0.1:5000/opensnoop:1.0.0")
	if entries, err := s.List(ctx); err != nil || len(entries) > 0 {
		t.Errorf("a new store lists %v, %v", entries, err)
	}
	_, err := s.Fetch(ctx, ref, amd64)
	wantKind(t, err, manifest.KindNotFound, ref.String(), "ebpm build", "ebpm pull")
	if files, err := os.ReadDir(s.Dir()); err != nil || len(files) > 0 {
		t.Errorf("reading made %v, %v", files, err)
	}
	if freed, err := s.Trim(ctx, 0, nil); err != nil || freed != 0 {
		t.Errorf("trim of a new store: %d, %v", freed, err)
	}

	a := put(t, s, ref.String(), "1.0.0")
	for _, r := range []manifest.Reference{ref, ref.WithDigest(a.Digest), ref.WithDigest(a.Digest).Pinned()} {
		p, err := s.Fetch(ctx, r, arm64)
		wantChild(t, p, err, testChild(arm64, "1.0.0"))
		if !p.Cached || p.Reference != r.WithDigest(a.Digest) {
			t.Errorf("%s: cached %v, as %s", r, p.Cached, p.Reference)
		}
		if got, err := s.Resolve(ctx, r); err != nil || got != r.WithDigest(a.Digest) {
			t.Errorf("resolve %s: %s, %v", r, got, err)
		}
	}
	entries, err := s.List(ctx)
	if err != nil || len(entries) != 1 {
		t.Fatalf("list: %v, %v", entries, err)
	}
	e := entries[0]
	if e.Reference != ref.WithDigest(a.Digest) || e.Size != a.Size() || e.Name != "opensnoop" || e.Version != "1.0.0" || e.Err != nil ||
		!e.Created.Equal(time.Unix(0, 0)) || time.Since(e.Used) > time.Minute || !slices.Equal(e.Platforms, []manifest.Platform{amd64, arm64}) {
		t.Errorf("entry %+v", e)
	}

	// A name that moves leaves nothing behind.
	b := put(t, s, ref.String(), "1.0.0-rc1")
	if _, err := os.Stat(blobPath(s, a.Digest)); err == nil {
		t.Error("the package that lost its name is still there")
	}
	_, err = s.Fetch(ctx, ref.WithDigest(a.Digest), amd64)
	wantKind(t, err, manifest.KindUnverified, "tag 1.0.0 names "+b.Digest.String())
	p, err := s.Fetch(ctx, ref, amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0-rc1"))

	put(t, s, "localhost/other:1", "2.0.0")
	if err := s.Remove(ctx, ref); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.Remove(ctx, ref), manifest.KindNotFound, ref.String())
	if n := countBlobs(t, s); n != len(testArtifact(t, "2.0.0").blobs) {
		t.Errorf("%d blobs are left", n)
	}
	p, err = s.Fetch(ctx, parse(t, "localhost/other:1"), amd64)
	wantChild(t, p, err, testChild(amd64, "2.0.0"))
	_, err = s.Put(ctx, a, ref.WithDigest(b.Digest))
	wantKind(t, err, manifest.KindUsage, a.Digest.String())
}

// TestPushFromStore is build here, push, and pull elsewhere.
func TestPushFromStore(t *testing.T) {
	for _, r := range registries {
		t.Run(r.name, func(t *testing.T) {
			ref := parse(t, serve(t, r.new(t))+"/team/opensnoop:1.0.0")
			s := newStore(t)
			c, _ := newClient(t, Options{Store: s})
			_, err := c.PushFromStore(t.Context(), ref)
			wantKind(t, err, manifest.KindNotFound, "push "+ref.String(), "ebpm build")
			a := put(t, s, ref.String(), "1.0.0")
			pinned, err := c.PushFromStore(t.Context(), ref)
			if err != nil || pinned != ref.WithDigest(a.Digest) {
				t.Fatalf("pushed %s, %v", pinned, err)
			}
			other := newStore(t)
			c, _ = newClient(t, Options{Store: other})
			pinned, err = c.PullToStore(t.Context(), ref)
			if err != nil || pinned != ref.WithDigest(a.Digest) {
				t.Fatalf("pulled %s, %v", pinned, err)
			}
			p, err := other.Fetch(t.Context(), ref, arm64)
			wantChild(t, p, err, testChild(arm64, "1.0.0"))
			source, err := c.FetchSource(t.Context(), ref)
			if err != nil || string(source) != string(p.Source) {
				t.Errorf("source %q, %v", source, err)
			}
			// By digest alone all names of it go.
			if _, err := other.Put(t.Context(), a, ref.WithTag("stable")); err != nil {
				t.Fatal(err)
			}
			if err := other.Remove(t.Context(), pinned.Pinned()); err != nil {
				t.Fatal(err)
			}
			if entries, err := other.List(t.Context()); err != nil || len(entries) > 0 || countBlobs(t, other) > 0 {
				t.Errorf("left %v, %v", entries, err)
			}
		})
	}
	c, _ := newClient(t, Options{})
	ref := parse(t, "localhost:1/x:1")
	if _, err := c.PushFromStore(t.Context(), ref); err == nil {
		t.Error("a push without a store")
	}
	if _, err := c.PullToStore(t.Context(), ref); err == nil {
		t.Error("a pull without a store")
	}
}

func TestOpenStoreRefuses(t *testing.T) {
	home := t.TempDir()
	writeFileT(t, filepath.Join(home, "letter.txt"), "Dear Sir", 0o600)
	_, err := OpenStore(home)
	wantKind(t, err, manifest.KindUsage, "letter.txt")
	c, _ := newClient(t, Options{})
	_, err = c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, "oci:"+home))
	wantKind(t, err, manifest.KindUsage, "letter.txt")
	if files, err := os.ReadDir(home); err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v", files, err)
	}
	future := t.TempDir()
	writeFileT(t, filepath.Join(future, "index.json"), `{"manifests":[]}`, 0o600)
	writeFileT(t, filepath.Join(future, "oci-layout"), `{"imageLayoutVersion":"9.0.0"}`, 0o600)
	if _, err := OpenStore(future); err == nil || !strings.Contains(err.Error(), "9.0.0") {
		t.Errorf("a layout of another version: %v", err)
	}
}

// TestStoreIsALayout reads the store with oras-go.
func TestStoreIsALayout(t *testing.T) {
	s := newStore(t)
	a := put(t, s, "localhost/x:1", "1.0.0")
	theirs, err := oci.New(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	d, err := oras.Copy(t.Context(), theirs, "localhost/x:1", memory.New(), "", oras.DefaultCopyOptions)
	if err != nil || d.Digest != a.Digest {
		t.Errorf("copied %s, %v", d.Digest, err)
	}
}

func TestStoreDamaged(t *testing.T) {
	var requests atomic.Int64
	inner := newReferrersRegistry(t)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		inner.ServeHTTP(w, r)
	}))
	a := testArtifact(t, "1.0.0", amd64)
	for d := range a.blobs {
		s := newStore(t)
		c, said := newClient(t, Options{Store: s})
		ref := parse(t, host+"/x:1")
		if _, err := c.Push(t.Context(), a, ref); err != nil {
			t.Fatal(err)
		}
		pinned, err := c.PullToStore(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(blobPath(s, d), 0o600); err != nil {
			t.Fatal(err)
		}
		writeFileT(t, blobPath(s, d), strings.Repeat("x", len(a.blobs[d])), 0o600)

		_, err = s.Fetch(t.Context(), ref, amd64)
		wantKind(t, err, manifest.KindUnverified, d.String(), "other bytes")
		entries, err := s.List(t.Context())
		if err != nil || len(entries) != 1 {
			t.Fatalf("list: %v, %v", entries, err)
		}
		if d == a.Digest && manifest.KindOf(entries[0].Err) != manifest.KindUnverified {
			t.Errorf("entry of a damaged package: %+v", entries[0])
		}
		if _, err := c.PushFromStore(t.Context(), ref); err == nil {
			t.Error("a damaged package was pushed")
		}

		p, err := c.Fetch(t.Context(), pinned.Pinned(), amd64)
		wantChild(t, p, err, testChild(amd64, "1.0.0"))
		if p.Cached || len(said.warned) != 1 || !strings.Contains(said.warned[0], d.String()) {
			t.Errorf("cached %v, warned %q", p.Cached, said.warned)
		}
		// It is mended now.
		before := requests.Load()
		p, err = c.Fetch(t.Context(), pinned.Pinned(), amd64)
		wantChild(t, p, err, testChild(amd64, "1.0.0"))
		if !p.Cached || requests.Load() != before {
			t.Errorf("cached %v after %d requests", p.Cached, requests.Load()-before)
		}
	}
}

// TestFetchWithoutRegistry is a Pod that starts again while the registry is
// down.
func TestFetchWithoutRegistry(t *testing.T) {
	var down atomic.Bool
	inner := newReferrersRegistry(t)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(w, r)
	}))
	s := newStore(t)
	c, said := newClient(t, Options{Store: s})
	ref := parse(t, host+"/x:1")
	pinned, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), ref)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Fetch(t.Context(), pinned.Pinned(), amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	if p.Cached {
		t.Error("the first fetch is said to be cached")
	}
	down.Store(true)
	p, err = c.Fetch(t.Context(), pinned.Pinned(), amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	if !p.Cached || len(said.warned)+len(said.slept) > 0 {
		t.Errorf("cached %v, warned %q, waited %v", p.Cached, said.warned, said.slept)
	}
	// The other platform, and the tag, are not known here.
	_, err = c.Fetch(t.Context(), pinned.Pinned(), arm64)
	wantKind(t, err, manifest.KindFailure, "registry "+host)
	_, err = c.Fetch(t.Context(), pinned, amd64)
	wantKind(t, err, manifest.KindFailure, "registry "+host)

	entries, err := s.List(t.Context())
	if err != nil || len(entries) != 1 || !slices.Equal(entries[0].Platforms, []manifest.Platform{amd64}) || entries[0].Reference != pinned.Pinned() {
		t.Errorf("list: %+v, %v", entries, err)
	}
	wantKind(t, func() error { _, err := c.PushFromStore(t.Context(), pinned.Pinned()); return err }(), manifest.KindNotFound, "does not have all of")

	// A store that cannot be read or written is passed by.
	down.Store(false)
	p, err = c.Fetch(t.Context(), pinned, amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	down.Store(true)
	p, err = c.Fetch(t.Context(), pinned, amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
}

func TestUnusableStore(t *testing.T) {
	host := serve(t, newReferrersRegistry(t))
	c, _ := newClient(t, Options{})
	pinned, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, host+"/x:1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, s *Store)
	}{
		{"a file in the way", func(t *testing.T, s *Store) {
			if err := os.Remove(s.Dir()); err != nil {
				t.Fatal(err)
			}
			writeFileT(t, s.Dir(), "x", 0o600)
		}},
		{"a folder in the place of a blob", func(t *testing.T, s *Store) {
			if err := os.MkdirAll(blobPath(s, pinned.Digest), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"no JSON in its index", func(t *testing.T, s *Store) {
			put(t, s, "localhost/y:1", "2.0.0")
			writeFileT(t, filepath.Join(s.Dir(), "index.json"), "{", 0o600)
		}},
		{"a lock that is not let go", func(t *testing.T, s *Store) {
			put(t, s, "localhost/y:1", "2.0.0")
			s.l.wait = time.Millisecond
			held := flock.New(filepath.Join(s.Dir(), indexLock))
			if err := held.Lock(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { held.Close() })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			tt.spoil(t, s)
			c, said := newClient(t, Options{Store: s})
			p, err := c.Fetch(t.Context(), pinned.Pinned(), amd64)
			wantChild(t, p, err, testChild(amd64, "1.0.0"))
			if len(said.warned) == 0 || !strings.Contains(strings.Join(said.warned, "\n"), s.Dir()) {
				t.Errorf("warned %q", said.warned)
			}
		})
	}
}

func TestLock(t *testing.T) {
	s := newStore(t)
	put(t, s, "localhost/x:1", "1.0.0")
	held := flock.New(filepath.Join(s.Dir(), indexLock))
	if err := held.Lock(); err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, testArtifact(t, "2.0.0"), parse(t, "localhost/x:2")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put under a lock: %v", err)
	}
	if _, err := s.l.lock(t.Context(), indexLock, false, time.Millisecond); !errors.Is(err, errLocked) {
		t.Errorf("lock: %v", err)
	}
	// Reading needs no lock.
	p, err := s.Fetch(t.Context(), parse(t, "localhost/x:1"), amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	// What is being written is not collected.
	blobs := flock.New(filepath.Join(s.Dir(), blobsLock))
	if err := blobs.RLock(); err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	if err := s.collect(t.Context()); err != nil {
		t.Errorf("collect beside a writer: %v", err)
	}
}

func TestTrim(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	var all []*Artifact
	for i := range 4 {
		a := put(t, s, fmt.Sprintf("localhost/x:%d", i), fmt.Sprintf("%d.0.0", i))
		all = append(all, a)
		used := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(blobPath(s, a.Digest), used, used); err != nil {
			t.Fatal(err)
		}
	}
	// The oldest is used, and another tag names the second.
	if _, err := s.Fetch(ctx, parse(t, "localhost/x:0"), amd64); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, all[2], parse(t, "localhost/x:two")); err != nil {
		t.Fatal(err)
	}
	used := time.Now().Add(-20 * time.Hour)
	if err := os.Chtimes(blobPath(s, all[2].Digest), used, used); err != nil {
		t.Fatal(err)
	}
	writeFileT(t, filepath.Join(s.Dir(), blobsDir, tempPrefix+"1"), "left behind", 0o600)
	names := func() string {
		entries, err := s.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Reference.Tag)
		}
		return strings.Join(names, " ")
	}
	if freed, err := s.Trim(ctx, 1<<30, nil); err != nil || freed != int64(len("left behind")) || names() != "0 1 2 3 two" {
		t.Errorf("with room: freed %d, %v, left %s", freed, err, names())
	}
	// Room for two and a half: 0 and 3 are the latest, 2 has the oldest use.
	freed, err := s.Trim(ctx, all[0].Size()*5/2, nil)
	if err != nil || names() != "0 3" || freed == 0 {
		t.Errorf("freed %d, %v, left %s", freed, err, names())
	}
	// What a release needs stays, by the digest of a child too.
	index, err := decodeIndex(all[3].blobs[all[3].Digest])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Trim(ctx, 1, []digest.Digest{index.Manifests[0].Digest}); err != nil || names() != "3" {
		t.Errorf("%v, left %s", err, names())
	}
	p, err := s.Fetch(ctx, parse(t, "localhost/x:3"), arm64)
	wantChild(t, p, err, testChild(arm64, "3.0.0"))
	if _, err := s.Trim(ctx, 0, nil); err != nil || names() != "" || countBlobs(t, s) != 0 {
		t.Errorf("%v, left %s, %d blobs", err, names(), countBlobs(t, s))
	}
}

// TestHostileStore reads a store of another user, whose files may be anything.
func TestHostileStore(t *testing.T) {
	s := newStore(t)
	a := put(t, s, "localhost/x:1", "1.0.0")
	secret := filepath.Join(t.TempDir(), "secret")
	writeFileT(t, secret, string(a.blobs[a.Digest]), 0o600)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(secret, old, old); err != nil {
		t.Fatal(err)
	}
	path := blobPath(s, a.Digest)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(t.Context(), parse(t, "localhost/x:1"), amd64); err == nil {
		t.Error("a link was followed")
	}
	s.l.touch(a.Digest)
	if info, err := os.Stat(secret); err != nil || !info.ModTime().Equal(old) {
		t.Errorf("the file behind the link was touched: %v, %v", info.ModTime(), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfifo", path).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	// Must not wait for a writer.
	if _, err := s.Fetch(t.Context(), parse(t, "localhost/x:1"), amd64); err == nil {
		t.Error("a pipe was read")
	}
}

const (
	writers  = 20
	rewrites = 2
)

// TestStoreConcurrency has many stores in one process write, read and trim at
// once.
func TestStoreConcurrency(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			if err := hammer(dir, i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkHammered(t, dir)
}

// TestStoreProcesses does the same with processes.
func TestStoreProcesses(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestHammerProcess$", "-test.count=1")
			cmd.Env = append(os.Environ(), hammerEnv+"="+dir, fmt.Sprintf("%s_ID=%d", hammerEnv, i))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("process %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	checkHammered(t, dir)
}

const hammerEnv = "EBPM_TEST_HAMMER"

// TestHammerProcess is a process of TestStoreProcesses.
func TestHammerProcess(t *testing.T) {
	dir := os.Getenv(hammerEnv)
	if dir == "" {
		return
	}
	var id int
	if _, err := fmt.Sscan(os.Getenv(hammerEnv+"_ID"), &id); err != nil {
		t.Fatal(err)
	}
	if err := hammer(dir, id); err != nil {
		t.Fatal(err)
	}
}

// hammer writes names of its own and one that all write, and reads and removes.
func hammer(dir string, id int) error {
	ctx := context.Background()
	s, err := OpenStore(dir)
	if err != nil {
		return err
	}
	s.l.wait = time.Minute // the machine may be busy
	ref := func(tag string) manifest.Reference {
		return manifest.Reference{Registry: "localhost", Repository: "x", Tag: tag}
	}
	for i := range rewrites {
		version := fmt.Sprintf("%d.%d.0", id, i)
		a, err := Pack([]Child{testChild(amd64, version)}, PackOptions{})
		if err != nil {
			return err
		}
		own := ref(fmt.Sprintf("own-%d-%d", id, i))
		for _, r := range []manifest.Reference{own, ref("shared"), ref(fmt.Sprintf("gone-%d", id))} {
			if _, err := s.Put(ctx, a, r); err != nil {
				return err
			}
		}
		if _, err := s.Fetch(ctx, own, amd64); err != nil {
			return err
		}
		if err := s.Remove(ctx, ref(fmt.Sprintf("gone-%d", id))); err != nil {
			return err
		}
	}
	_, err = s.Trim(ctx, noLimit, nil)
	return err
}

func checkHammered(t *testing.T, dir string) {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := writers*rewrites + 1; len(entries) != want {
		t.Errorf("%d names, wanted %d", len(entries), want)
	}
	for _, e := range entries {
		p, err := s.Fetch(t.Context(), e.Reference, amd64)
		if err != nil {
			t.Error(err)
		} else if e.Reference.Tag != "shared" && strings.Replace(p.Config.Version, ".", "-", 1) != strings.TrimPrefix(e.Reference.Tag, "own-")+".0" {
			t.Errorf("%s is version %s", e.Reference, p.Config.Version)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "blobs", "*", tempPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
