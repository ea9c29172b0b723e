// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestAttachedTo(t *testing.T) {
	for _, tt := range []struct {
		programs []manifest.ProgramStatus
		count    int
		want     string
	}{
		{nil, 0, "-"},
		{[]manifest.ProgramStatus{{Name: "b", Target: "lo"}, {Name: "a", Target: "veth0"}, {Name: "a", Target: "veth1"}}, 2, "a=veth0,veth1 b=lo"},
	} {
		if got := attachedTo(tt.programs); got != tt.want || len(targetsOf(tt.programs)) != tt.count {
			t.Errorf("%v: %d programs, %s", tt.programs, len(targetsOf(tt.programs)), got)
		}
	}
}
