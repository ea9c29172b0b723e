// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	tab := newTable("what", []contender{{name: "ours"}, {name: "theirs"}})
	for _, f := range []float64{3, 1, 2} {
		tab.add("time", 0, "s", f)
		tab.add("time", 1, "s", 2*f)
	}
	tab.add("only ours", 0, "", 123456)
	tab.add("nothing", 0, "%", 0)
	tab.add("nothing", 1, "%", 50)
	var out strings.Builder
	if err := tab.write(&out); err != nil {
		t.Fatal(err)
	}
	want := `
       what    ours  theirs  ratio
       time  2.00 s  4.00 s   2.00
  only ours  123456       -      -
    nothing  0.00 %  50.0 %      -
`
	if got := out.String(); got != want[1:] {
		t.Errorf("got\n%swant%s", got, want)
	}
}

// TestTail: of a long output the end is kept, events are counted wherever they
// are.
func TestTail(t *testing.T) {
	var w countingWriter
	for range 1000 {
		if _, err := w.Write([]byte("an event of ~ that is long enough\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write([]byte(strings.Repeat("x", 10_000) + "the end")); err != nil {
		t.Fatal(err)
	}
	if got := w.String(); w.events.Load() != 1000 || len(got) > 4<<10 || !strings.HasSuffix(got, "xthe end") {
		t.Errorf("%d events, %d bytes kept", w.events.Load(), len(got))
	}
}

// TestLoad: as many events are made as the rate says.
func TestLoad(t *testing.T) {
	if made := load(t.Context(), 20_000, 50*time.Millisecond); made < 998 || made > 1000 {
		t.Errorf("made %d events", made)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if made := load(ctx, 0, time.Hour); made != 0 {
		t.Errorf("made %d events after the end", made)
	}
}
