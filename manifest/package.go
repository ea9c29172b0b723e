// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of what is read from a package.
const (
	// MaxObjectSize is the largest object, in bytes, that a package may hold.
	MaxObjectSize = 16 << 20
	// MaxPackageSize is the largest package.json, in bytes. base64 makes an
	// object that zlib cannot shrink a third larger; the rest is room for meta.
	MaxPackageSize = 32 << 20
	// MaxMapMemory is how much kernel memory, in bytes, the maps of a package
	// may take on one CPU where a cluster runs it.
	MaxMapMemory = 1 << 30
)

// Package is a decoded package.json (ComposedObject): an eBPF object and its
// description.
type Package struct {
	// Object is the ELF file.
	Object []byte
	Meta   Meta
	// Extra keeps the fields that ebpm does not know.
	Extra Fields

	// packed is the object as it was read: recompressing gives other bytes.
	packed string
}

// packageFile is package.json as it is stored.
type packageFile struct {
	Object string          `skel:"bpf_object"`
	Size   uint64          `skel:"bpf_object_size"`
	Meta   json.RawMessage `skel:"meta"`
	Extra  Fields
}

// DecodePackage reads a package.json of at most [MaxPackageSize] bytes whose
// object has at most [MaxObjectSize], nested at most 32 deep. Fields that it does not know are kept.
// The early layouts of eunomia-bpf, before bpf_object_size, are refused with a
// sentence that says so.
func DecodePackage(data []byte) (*Package, error) {
	if len(data) > MaxPackageSize {
		return nil, fmt.Errorf("decode package: larger than %d bytes", MaxPackageSize)
	}
	if err := checkNesting(data); err != nil {
		return nil, fmt.Errorf("decode package: %w", err)
	}
	var file packageFile
	if err := decodeObject(data, &file); err != nil {
		if early := earlyLayout(data); early != "" {
			return nil, fmt.Errorf("decode package: %s", early)
		}
		return nil, fmt.Errorf("decode package: %w", err)
	}
	p := Package{Extra: file.Extra, packed: file.Object}
	if err := json.Unmarshal(file.Meta, &p.Meta); err != nil {
		return nil, fmt.Errorf("decode package: meta: %w", err)
	}
	var err error
	if p.Object, err = unpackObject(file.Object, file.Size); err != nil {
		return nil, fmt.Errorf("decode package: %w", err)
	}
	return &p, nil
}

// earlyLayout names a layout from before ecc 0.3, or returns "".
func earlyLayout(data []byte) string {
	var fields Fields
	if json.Unmarshal(data, &fields) != nil {
		return ""
	}
	_, hasSize := fields["bpf_object_size"]
	_, hasObject := fields["bpf_object"]
	_, hasData := fields["data"]
	if !hasSize && (hasObject || hasData) {
		return "this is the layout of an eunomia-bpf before 0.3 (it has no `bpf_object_size`); compile the source again with a current ecc"
	}
	return ""
}

func unpackObject(packed string, size uint64) ([]byte, error) {
	if size > MaxObjectSize {
		return nil, fmt.Errorf("bpf_object_size is %d, at most %d bytes are allowed", size, MaxObjectSize)
	}
	// Newlines are legal for Go's decoder and not for the format (B1).
	if i := bytes.IndexAny([]byte(packed), "\r\n"); i >= 0 {
		return nil, fmt.Errorf("bpf_object: illegal base64 data at input byte %d", i)
	}
	compressed, err := base64.StdEncoding.Strict().DecodeString(packed)
	if err != nil {
		return nil, fmt.Errorf("bpf_object: %w", err)
	}
	r, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("bpf_object: %w", err)
	}
	// The size is the writer's word: one byte more is asked for to notice a
	// longer stream, and a bomb is read no further.
	var object bytes.Buffer
	n, err := io.Copy(&object, io.LimitReader(r, int64(size)+1))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("bpf_object: the compressed object is cut short after %d of %d bytes", n, size)
	case err != nil:
		return nil, fmt.Errorf("bpf_object: %w", err)
	case uint64(n) > size:
		return nil, fmt.Errorf("unmatched size: %d in the json, but more in the decompressed object", size)
	case uint64(n) < size:
		return nil, fmt.Errorf("unmatched size: %d in the json, but %d in the decompressed object", size, n)
	}
	return object.Bytes(), nil
}

func packObject(object []byte) (string, error) {
	var buf bytes.Buffer
	w, err := zlib.NewWriterLevel(&buf, zlib.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(object); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(buf.Bytes()), nil
}

// Encode returns p as package.json: compact, keys sorted, no final newline. A
// decoded package keeps the compressed bytes that it came with.
func (p *Package) Encode() ([]byte, error) {
	if len(p.Object) > MaxObjectSize {
		return nil, fmt.Errorf("encode package: the object has %d bytes, at most %d are allowed", len(p.Object), MaxObjectSize)
	}
	packed := p.packed
	if packed == "" {
		var err error
		if packed, err = packObject(p.Object); err != nil {
			return nil, fmt.Errorf("encode package: %w", err)
		}
	}
	meta, err := p.Meta.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode package: %w", err)
	}
	return encodeObject(&packageFile{Object: packed, Size: uint64(len(p.Object)), Meta: meta, Extra: p.Extra})
}

// EncodeCanonical returns p with only the fields that this package knows. It is
// the one form that a runner started with --strict accepts.
func (p *Package) EncodeCanonical() ([]byte, error) {
	known := *p
	known.Extra = nil
	known.Meta = p.Meta.known()
	return known.Encode()
}

// DecodeCanonical is [DecodePackage] for input that must be what
// [Package.EncodeCanonical] wrote, to the byte.
func DecodeCanonical(data []byte) (*Package, error) {
	p, err := DecodePackage(data)
	if err != nil {
		return nil, err
	}
	canonical, err := p.EncodeCanonical()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(data, canonical) {
		return nil, WithKind(KindUnverified, errors.New("decode package: not in canonical form"),
			"The strict runner takes only the package.json that `ebpm pull REF -o DIR --canonical` writes.")
	}
	return p, nil
}

// known returns a copy of m without the fields that this package does not know.
// A program keeps the options of its hook (spec section B5).
func (m *Meta) known() Meta {
	k := *m
	k.Extra = nil
	k.Skeleton.Extra = nil
	if m.Skeleton.Doc != nil {
		doc := *m.Skeleton.Doc
		doc.Extra = nil
		k.Skeleton.Doc = &doc
	}
	k.Skeleton.DataSections = copyEach(m.Skeleton.DataSections, func(s *DataSection) {
		s.Extra = nil
		s.Variables = copyEach(s.Variables, func(v *Variable) {
			v.Extra = nil
			if v.CmdArg != nil {
				arg := *v.CmdArg
				arg.Extra = nil
				v.CmdArg = &arg
			}
		})
	})
	k.Skeleton.Maps = copyEach(m.Skeleton.Maps, func(s *MapMeta) {
		s.Extra = nil
		if s.Sample != nil {
			sample := *s.Sample
			sample.Extra = nil
			s.Sample = &sample
		}
	})
	k.Skeleton.Progs = copyEach(m.Skeleton.Progs, func(p *ProgMeta) {
		var options Fields
		for _, name := range []string{"ifindex", "flags", "xdpopts", "tchook", "tcopts"} {
			if raw, ok := p.Extra[name]; ok {
				if options == nil {
					options = Fields{}
				}
				options[name] = raw
			}
		}
		p.Extra = options
	})
	k.ExportTypes = copyEach(m.ExportTypes, func(t *ExportType) {
		t.Extra = nil
		t.Members = copyEach(t.Members, func(m *Member) { m.Extra = nil })
	})
	return k
}

// copyEach returns a copy of s with edit applied to each element; nil stays nil.
func copyEach[T any](s []T, edit func(*T)) []T {
	if s == nil {
		return nil
	}
	c := make([]T, len(s))
	copy(c, s)
	for i := range c {
		edit(&c[i])
	}
	return c
}
