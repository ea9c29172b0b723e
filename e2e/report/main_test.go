// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"
)

func TestParseSkips(t *testing.T) {
	got, err := parseSkips("# why\n\ne2e TestX/sub: needs KVM\n")
	if err != nil || got["e2e TestX/sub"] != "needs KVM" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"e2e TestX", "TestX: reason", "e2e TestX: ", "e2e Test X: reason"} {
		if _, err := parseSkips(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestSummaryCountsUnlistedSkips(t *testing.T) {
	const stream = `{"Action":"output","Package":"github.com/ebpm/ebpm/p","Test":"TestA","Output":"why A failed\n"}
{"Action":"fail","Package":"github.com/ebpm/ebpm/p","Test":"TestA","Elapsed":1}
{"Action":"skip","Package":"github.com/ebpm/ebpm/p","Test":"TestB"}
{"Action":"skip","Package":"github.com/ebpm/ebpm/p","Test":"TestC"}
{"Action":"pass","Package":"github.com/ebpm/ebpm/p","Test":"TestD","Elapsed":2}
{"Action":"fail","Package":"github.com/ebpm/ebpm/p","Elapsed":3}
`
	var out strings.Builder
	r := newResults(&out)
	if err := r.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if n := r.summary(map[string]string{"p TestB": "reason"}, 5, time.Second); n != 1 {
		t.Errorf("%d unlisted skips, want 1", n)
	}
	for _, want := range []string{"why A failed", "not listed with a reason: p TestC", "1 passed, 2 failed, 2 skipped"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestListed(t *testing.T) {
	allowed := map[string]string{"e2e/p TestA": "", "e2e/p TestB/6.1/TestC/...": ""}
	for key, want := range map[string]bool{
		"e2e/p TestA": true, "e2e/p TestA/sub": false, "e2e/q TestA": false,
		"e2e/p TestB/6.1/TestC/sub": true, "e2e/p TestB/6.1/TestC/sub/sub": true,
		"e2e/p TestB/6.1/TestC": false, "e2e/p TestB/6.1/TestCD/sub": false, "e2e/p TestB/6.12/TestC/sub": false,
	} {
		if got := listed(allowed, key); got != want {
			t.Errorf("%s: %t", key, got)
		}
	}
}
