// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// blob describes a gzipped tar; as JSON it is what the cache remembers.
type blob struct {
	Digest       v1.Hash `json:"digest"`       // of the gzipped bytes
	DiffID       v1.Hash `json:"diffID"`       // of the tar
	Size         int64   `json:"size"`         // of the gzipped bytes
	Uncompressed int64   `json:"uncompressed"` // of the tar
}

// layer is a [v1.Layer] whose digests are known.
type layer struct {
	blob blob
	open func() (io.ReadCloser, error) // the gzipped bytes
}

var _ v1.Layer = (*layer)(nil)

func (l *layer) Digest() (v1.Hash, error)            { return l.blob.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.blob.DiffID, nil }
func (l *layer) Size() (int64, error)                { return l.blob.Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.open() }
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, err := l.open()
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		r.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, r}, nil
}

// meter hashes and counts what is written through it.
type meter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func newMeter(w io.Writer) *meter { return &meter{w: w, hash: sha256.New()} }

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.hash.Write(p[:n])
	m.n += int64(n)
	return n, err
}

func (m *meter) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(m.hash.Sum(nil))}
}

// writeBlob writes t as a gzipped tar to w.
func writeBlob(ctx context.Context, w io.Writer, t tree, mtime time.Time) (blob, error) {
	packed := newMeter(w)
	// The header holds no name and no time, so only the content counts.
	z := gzip.NewWriter(packed)
	plain := newMeter(z)
	if err := t.writeTar(ctx, plain, mtime); err != nil {
		return blob{}, err
	}
	if err := z.Close(); err != nil {
		return blob{}, fmt.Errorf("compress layer: %w", err)
	}
	return blob{
		Digest:       packed.digest(),
		DiffID:       plain.digest(),
		Size:         packed.n,
		Uncompressed: plain.n,
	}, nil
}

// memoryLayer makes a layer of t that is kept in memory.
func memoryLayer(ctx context.Context, t tree, mtime time.Time) (*layer, error) {
	var buf bytes.Buffer
	b, err := writeBlob(ctx, &buf, t, mtime)
	if err != nil {
		return nil, err
	}
	return &layer{blob: b, open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}}, nil
}
