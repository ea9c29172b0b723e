// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testdata/*.package.json were written by eunomia-bpf's ecc-rs 0.3.4 (clang
// 14.0.6, x86_64) on 2026-11-23 from sources of our own.
func readPackages(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.package.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no packages in testdata: %v", err)
	}
	packages := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		packages[filepath.Base(file)] = data
	}
	return packages
}

func TestPackageRoundTripKeepsEveryByte(t *testing.T) {
	for name, data := range readPackages(t) {
		t.Run(name, func(t *testing.T) {
			p, err := DecodePackage(data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data) {
				t.Errorf("round trip differs:\n got %s\nwant %s", got, data)
			}
		})
	}
}

func TestEncodeOwnObject(t *testing.T) {
	object := bytes.Repeat([]byte("object "), 1000)
	p := &Package{Object: object, Meta: Meta{Skeleton: Skeleton{ObjName: "x_bpf", DataSections: []DataSection{}}}}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(data), `"bpf_object_size":7000,"meta":{"bpf_skel":{"data_sections":[],"maps":null,"obj_name":"x_bpf","progs":null}}}`) {
		t.Errorf("encoded as %s", data)
	}
	back, err := DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Object, object) {
		t.Error("the object came back changed")
	}
}

func TestUnknownFieldsSurvive(t *testing.T) {
	meta := `{"bpf_skel":{"data_sections":[{"name":".rodata","variables":[{"cmdarg":{"default":18446744073709551615,"zz":1e3},"name":"x","size":4,"type":"int"}]}],` +
		`"doc":{"brief":"a <b> & \u2028","x":[{"b":1,"a":null}]},"maps":[{"ident":"m","name":"m","sample":{"extra":true,"interval":1}}],"obj_name":"o",` +
		`"progs":[{"attach":"xdp","ifindex":3,"link":true,"name":"p"}],"what":{}},"eunomia_version":"9","export_types":[],"later":1.50}`
	m, err := DecodeMeta([]byte(meta))
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// Keys come out sorted; everything else is as it was.
	want := strings.Replace(strings.Replace(meta, `{"b":1,"a":null}`, `{"a":null,"b":1}`, 1), `\u2028`, "\u2028", 1)
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func zlibBase64(t testing.TB, data []byte) string {
	t.Helper()
	var buf bytes.Buffer
	w := zlib.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(buf.Bytes())
}

const minimalMeta = `{"bpf_skel":{"data_sections":[],"maps":null,"obj_name":"x_bpf","progs":null}}`

func TestDecodePackageRefuses(t *testing.T) {
	good := zlibBase64(t, []byte("0123456789"))
	bomb := zlibBase64(t, make([]byte, 64<<20))
	cut, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	pack := func(object string, size any, meta string) string {
		return fmt.Sprintf(`{"bpf_object":%q,"bpf_object_size":%v,"meta":%s}`, object, size, meta)
	}
	for name, tt := range map[string]struct{ data, want string }{
		"empty":              {"", "unexpected end"},
		"null":               {"null", "got null"},
		"cut JSON":           {pack(good, 10, minimalMeta)[:60], "unexpected end"},
		"byte order mark":    {"\ufeff" + pack(good, 10, minimalMeta), "invalid character"},
		"more behind":        {pack(good, 10, minimalMeta) + "{}", "after top-level value"},
		"size too small":     {pack(good, 9, minimalMeta), "unmatched size: 9 in the json, but more"},
		"size too large":     {pack(good, 11, minimalMeta), "unmatched size: 11 in the json, but 10"},
		"size a string":      {pack(good, `"10"`, minimalMeta), "bpf_object_size"},
		"size negative":      {pack(good, -1, minimalMeta), "bpf_object_size"},
		"bomb":               {pack(bomb, 10, minimalMeta), "but more in the decompressed"},
		"bomb with its size": {pack(bomb, 64<<20, minimalMeta), "at most 16777216"},
		"cut zlib":           {pack(base64.StdEncoding.EncodeToString(cut[:len(cut)-6]), 10, minimalMeta), "cut short"},
		"bad checksum":       {pack(base64.StdEncoding.EncodeToString(append(cut[:len(cut)-1:len(cut)-1], cut[len(cut)-1]^1)), 10, minimalMeta), "checksum"},
		"no padding":         {pack(strings.TrimRight(good, "="), 10, minimalMeta), "illegal base64"},
		"newline in base64":  {pack(good[:4]+"\n"+good[4:], 10, minimalMeta), "illegal base64"},
		"no meta":            {`{"bpf_object":"","bpf_object_size":0}`, "missing field `meta`"},
		"no obj_name":        {pack(good, 10, `{"bpf_skel":{"data_sections":[]}}`), "missing field `obj_name`"},
		"nested too deep":    {pack(good, 10, strings.Repeat("[", 32)+strings.Repeat("]", 32)), "more than 32 deep"},
		"early layout":       {`{"bpf_object":"x","export_types":{}}`, "before 0.3"},
		"early raw layout":   {`{"data":"x","data_sz":5}`, "before 0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodePackage([]byte(tt.data))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	if _, err := DecodePackage([]byte(pack(good, 10, minimalMeta))); err != nil {
		t.Errorf("the good package is refused: %v", err)
	}
	if _, err := DecodePackage([]byte(pack(good, 10, `{"bpf_skel":{"data_sections":[],"obj_name":"x"}}`))); err != nil {
		t.Errorf("absent maps and progs are refused: %v", err)
	}
}

func TestCanonicalForm(t *testing.T) {
	for name, data := range readPackages(t) {
		p, err := DecodePackage(data)
		if err != nil {
			t.Fatal(err)
		}
		canonical, err := p.EncodeCanonical()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeCanonical(canonical); err != nil {
			t.Errorf("%s: its canonical form is refused: %v", name, err)
		}
		for what, changed := range map[string][]byte{
			"a blank":          bytes.Replace(canonical, []byte(":"), []byte(": "), 1),
			"an unknown field": append([]byte(`{"a":1,`), canonical[1:]...),
			"a double key":     append([]byte(`{"bpf_object":"",`), canonical[1:]...),
		} {
			_, err := DecodeCanonical(changed)
			if KindOf(err) != KindUnverified {
				t.Errorf("%s with %s: error %v, want one of KindUnverified", name, what, err)
			}
			if advice := AdviceOf(err); !strings.Contains(advice, "ebpm pull REF -o DIR --canonical") {
				t.Errorf("advice %q", advice)
			}
		}
	}
}

func TestStatusLines(t *testing.T) {
	line, err := EncodeStatus(Status{Event: StatusAttached, Kernel: "6.18.0"})
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := DecodeStatus(line); !ok || s.Event != StatusAttached || s.Kernel != "6.18.0" {
		t.Errorf("decoded %+v, %v", s, ok)
	}
	for _, line := range []string{"", "{", "INFO attached", `{"pid":1}`, `{"ebpm.io/status":{},"pid":1}`} {
		if _, ok := DecodeStatus([]byte(line)); ok {
			t.Errorf("%q is taken for a status", line)
		}
	}
}

func FuzzDecodePackage(f *testing.F) {
	for _, data := range readPackages(f) {
		f.Add(data)
	}
	f.Add([]byte(`{"bpf_object":"","bpf_object_size":0,"meta":` + minimalMeta + `}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := DecodePackage(data)
		if err != nil {
			return
		}
		encoded, err := p.Encode()
		if err != nil {
			t.Fatalf("a decoded package does not encode: %v", err)
		}
		if !json.Valid(encoded) {
			t.Fatalf("encoded as %q", encoded)
		}
		again, err := DecodePackage(encoded)
		if err != nil {
			t.Fatalf("its own encoding is refused: %v", err)
		}
		twice, err := again.Encode()
		if err != nil || !bytes.Equal(encoded, twice) {
			t.Fatalf("the encoding is not stable: %v", err)
		}
		// The object may be anything: looking at it must not panic.
		if object, err := Inspect(p.Object); err == nil {
			_, _ = object.Needs()
			object.MemoryBytes(8)
		}
	})
}
