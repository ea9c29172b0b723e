// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"testing"
)

func TestStandalone(t *testing.T) {
	runner, pkg := []byte("\x7fELF and so on"), []byte(`{"bpf_object":"AA=="}`)
	whole := AppendStandalone(runner, pkg)
	if !bytes.HasPrefix(whole, runner) {
		t.Fatal("the runner is not in front")
	}
	got, err := ReadStandalone(bytes.NewReader(whole), int64(len(whole)))
	if err != nil || !bytes.Equal(got, pkg) {
		t.Errorf("%q, %v", got, err)
	}
	twice := AppendStandalone(whole, []byte("another"))
	if got, err := ReadStandalone(bytes.NewReader(twice), int64(len(twice))); err != nil || string(got) != "another" {
		t.Errorf("the last is not taken: %q, %v", got, err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"package":      func(b []byte) []byte { b[len(runner)] ^= 1; return b },
		"digest":       func(b []byte) []byte { b[len(b)-len(standaloneMagic)-1] ^= 1; return b },
		"length":       func(b []byte) []byte { b[len(runner)+len(pkg)] ^= 1; return b },
		"huge length":  func(b []byte) []byte { b[len(runner)+len(pkg)+7] = 0xff; return b },
		"cut in front": func(b []byte) []byte { return b[len(runner)+3:] },
	} {
		bad := change(bytes.Clone(whole))
		if got, err := ReadStandalone(bytes.NewReader(bad), int64(len(bad))); KindOf(err) != KindUnverified || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, none := range map[string][]byte{"": nil, "runner": runner, "cut behind": whole[:len(whole)-1], "long": make([]byte, 4096)} {
		if got, err := ReadStandalone(bytes.NewReader(none), int64(len(none))); err != nil || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzReadStandalone(f *testing.F) {
	f.Add(AppendStandalone([]byte("runner"), []byte("{}")))
	f.Add([]byte(standaloneMagic))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := ReadStandalone(bytes.NewReader(file), int64(len(file)))
		if got != nil && (err != nil || !bytes.HasSuffix(AppendStandalone(nil, got), file[max(0, len(file)-standaloneTrailer):])) {
			t.Errorf("%q, %v", got, err)
		}
	})
}
