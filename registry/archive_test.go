// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestArchiveIsReproducible(t *testing.T) {
	c, _ := newClient(t, Options{})
	var archives [][]byte
	for range 2 {
		file := filepath.Join(t.TempDir(), "a.tar")
		if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, "oci-archive:"+file+":1.0.0")); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, data)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same package gives two archives")
	}
}

// TestArchiveKeepsTags writes to an archive that is there.
func TestArchiveKeepsTags(t *testing.T) {
	dir := t.TempDir()
	file := parse(t, "oci-archive:"+filepath.Join(dir, "a.tar"))
	c, _ := newClient(t, Options{})
	for _, version := range []string{"1.0.0", "2.0.0"} {
		if _, err := c.Push(t.Context(), testArtifact(t, version), file.WithTag(version)); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"1.0.0", "2.0.0"} {
		p, err := c.Fetch(t.Context(), file.WithTag(version), amd64)
		wantChild(t, p, err, testChild(amd64, version))
	}
	if tags, err := c.Tags(t.Context(), file); err != nil || !slices.Equal(tags, []string{"1.0.0", "2.0.0"}) {
		t.Errorf("tags %q, %v", tags, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v", files, err)
	}
}

func TestHostileArchive(t *testing.T) {
	c, _ := newClient(t, Options{})
	good := filepath.Join(t.TempDir(), "good.tar")
	a := testArtifact(t, "1.0.0")
	if _, err := c.Push(t.Context(), a, parse(t, "oci-archive:"+good+":1.0.0")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	many := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for range maxArchiveFiles + 1 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	link := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range []string{"index.json", "oci-layout"} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "/etc/passwd"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for _, tt := range []struct {
		name string
		data []byte
		kind manifest.Kind
		want string
	}{
		{"damaged", bytes.Replace(data, []byte("opensnoop"), []byte("opensnarl"), 1), manifest.KindUnverified, "other bytes"},
		{"cut short", data[:len(data)/2], manifest.KindFailure, "unexpected EOF"},
		{"empty", nil, manifest.KindNotFound, "not an OCI layout"},
		{"no tar", bytes.Repeat([]byte("x"), 4096), manifest.KindFailure, "invalid tar header"},
		{"too many files", many(), manifest.KindFailure, "over 10000 files"},
		{"links", link(), manifest.KindNotFound, "not an OCI layout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a.tar")
			writeFileT(t, file, string(tt.data), 0o600)
			ref := parse(t, "oci-archive:"+file+":1.0.0")
			_, err := c.Fetch(t.Context(), ref, amd64)
			wantKind(t, err, tt.kind, ref.String(), tt.want)
			// Writing to it fails too, and leaves it as it is.
			if _, err := c.Push(t.Context(), testArtifact(t, "2.0.0"), ref.WithTag("2.0.0")); err == nil {
				t.Error("it was written to")
			}
			if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, tt.data) {
				t.Errorf("it has changed: %v", err)
			}
		})
	}
	_, err = c.Fetch(t.Context(), parse(t, "oci-archive:/nowhere/a.tar:1"), amd64)
	wantKind(t, err, manifest.KindNotFound, "/nowhere/a.tar")
}
