// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"testing"
)

func TestKindAndAdvice(t *testing.T) {
	plain := errors.New("plain")
	inner := WithKind(KindNotFound, plain, "Push it first.")
	outer := WithKind(KindPartial, fmt.Errorf("deploy: %w", inner), "")
	for _, tt := range []struct {
		err    error
		kind   Kind
		advice string
	}{
		{plain, KindFailure, ""},
		{inner, KindNotFound, "Push it first."},
		{fmt.Errorf("pull: %w", inner), KindNotFound, "Push it first."},
		{outer, KindPartial, "Push it first."},
	} {
		if kind, advice := KindOf(tt.err), AdviceOf(tt.err); kind != tt.kind || advice != tt.advice {
			t.Errorf("%v: kind %d, advice %q; want %d, %q", tt.err, kind, advice, tt.kind, tt.advice)
		}
	}
	if WithKind(KindUsage, nil, "") != nil {
		t.Error("no error became one")
	}
	if !errors.Is(outer, plain) {
		t.Error("the cause is lost")
	}
	seen := map[Kind]bool{}
	for _, k := range Kinds() {
		if seen[k.Kind] || k.Text == "" {
			t.Errorf("kind %d is listed twice or without words", k.Kind)
		}
		seen[k.Kind] = true
	}
}
