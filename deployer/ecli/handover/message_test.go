// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"reflect"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

var messages = []struct {
	m     Message
	files int
}{
	{Hello{Protocol: 1, Revision: 1 << 63}, 0},
	{Refuse{Reason: "no", Protocol: 1}, 0},
	{Stale{Revision: 3}, 0},
	{Offer{Slot: 1, Parts: []Part{{Name: "a", Key: "k", Links: 3}, {Name: "b"}}, Buffers: []string{"events"}, States: []manifest.State{{Name: "counts", Layout: "l"}}}, 2 + 4 + 1 + 1 + 1},
	{Offer{Parts: []Part{{Name: "a", Links: 2, Gated: true}, {Name: "b", Links: 1, Swapped: true}}, Buffers: []string{}, States: []manifest.State{}}, 2 + 2 + 2},
	{Ready{Parts: []Part{{Name: "c", Links: 1}}, Buffers: []string{"events"}, Carried: []string{"counts"}, Reset: []string{"old"}}, 1 + 2 + 1},
	{Go{}, 0},
	{Flipped{}, 0},
	{Drained{}, 0},
	{Done{}, 0},
	{Retire{}, 0},
}

func TestMessages(t *testing.T) {
	for _, tt := range messages {
		data, err := encode(tt.m, tt.files)
		if err != nil {
			t.Fatal(err)
		}
		m, files, err := decode(data)
		if err != nil || files != tt.files || !reflect.DeepEqual(m, tt.m) {
			t.Errorf("%s: got %+v with %d files, %v", data, m, files, err)
		}
		if _, _, err := decode(append(data, ' ', '{', '}')); err == nil {
			t.Errorf("%s: something behind it is taken", data)
		}
	}
	for _, tt := range messages {
		data, err := encode(tt.m, tt.files+1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decode(data); err == nil {
			t.Errorf("%s: a file too many is taken", data)
		}
	}
}

func TestMessagesAreRefused(t *testing.T) {
	long := strings.Repeat("x", maxName+1)
	for _, data := range []string{
		``, `{}`, `[]`, `{"kind":"nothing","body":{}}`, `{"kind":"go"}`, `{"kind":"go","body":{"x":1}}`, `{"kind":"go","body":{},"x":1}`,
		`{"kind":"hello","body":{"protocol":"1"}}`, `{"kind":"hello","body":{"revision":-1}}`,
		`{"kind":"offer","files":2,"body":{"slot":2,"parts":[],"buffers":[],"states":[]}}`,
		`{"kind":"offer","files":-1,"body":{"slot":1,"parts":[{"name":"a","key":"","links":-4}],"buffers":[],"states":[]}}`,
		`{"kind":"offer","files":4,"body":{"slot":1,"parts":[{"name":"a"},{"name":"a"}],"buffers":[],"states":[]}}`,
		`{"kind":"offer","files":3,"body":{"slot":1,"parts":[{"name":"a","key":"","links":1,"gated":true,"swapped":true}],"buffers":[],"states":[]}}`,
		`{"kind":"offer","files":4,"body":{"slot":1,"parts":[{"name":"a","key":"","links":1,"gated":true,"swapped":true}],"buffers":[],"states":[]}}`,
		`{"kind":"offer","files":3,"body":{"slot":1,"parts":[],"buffers":[""],"states":[]}}`,
		`{"kind":"offer","files":3,"body":{"slot":1,"parts":[],"buffers":["` + long + `"],"states":[]}}`,
		`{"kind":"ready","files":1048577,"body":{"parts":[{"name":"a","links":1048576}],"buffers":[]}}`,
		`{"kind":"go","body":{"` + strings.Repeat("x", maxMessage) + `":1}}`,
	} {
		if m, _, err := decode([]byte(data)); err == nil {
			t.Errorf("%.100s: taken as %+v", data, m)
		}
	}
	if _, err := encode(Refuse{Reason: strings.Repeat("x", maxMessage)}, 0); err == nil {
		t.Error("a message that is too long is sent")
	}
}

// TestOtherProtocols: what is said first is understood, whatever the version.
func TestOtherProtocols(t *testing.T) {
	for data, want := range map[string]Message{
		`{"kind":"hello","body":{"protocol":2,"revision":3,"more":[1]},"more":{}}`: Hello{Protocol: 2, Revision: 3},
		`{"kind":"refuse","body":{"reason":"r","protocol":2,"more":1}}`:            Refuse{Reason: "r", Protocol: 2},
	} {
		if m, _, err := decode([]byte(data)); err != nil || m != want {
			t.Errorf("%s: got %+v, %v", data, m, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, tt := range messages {
		data, err := encode(tt.m, tt.files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, files, err := decode(data)
		if err != nil {
			return
		}
		again, err := encode(m, files)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if m2, files2, err := decode(again); err != nil || files2 != files || !reflect.DeepEqual(m, m2) && len(again) == len(data) {
			t.Fatalf("%s became %s: %v", data, again, err)
		}
	})
}
