// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"slices"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// TestMoves moves up and back between two versions under load.
func TestMoves(t *testing.T) {
	for _, tt := range []struct {
		name  string
		moves int
		rate  int
		hooks []int
	}{
		{"all hooks", 10, 3000, allHooks},
		{"fast hooks", 10, 50000, fastHooks},
		{"all hooks, flat out", 5, 0, allHooks},
		{"fast hooks, flat out", 5, 0, fastHooks},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if *full {
				tt.moves = 100
			}
			empty := kernelBefore(t)
			c := newTally(t)
			r := newRelease(t, c)
			old := r.start(t, v1(t))
			old.waitRole(manifest.RoleCurrent)
			l := startLoad(t, c, tt.rate, tt.hooks)
			var standby *process
			var took []time.Duration
			for i := range tt.moves {
				p := r.start(t, versions(t, i+1))
				p.waitRole(manifest.RoleCurrent)
				h := p.handover()
				took = append(took, time.Duration(h.Milliseconds*float64(time.Millisecond)))
				if h.Way != manifest.NearExact || !slices.Equal(h.Carried, []string{"seen"}) || h.Reset != nil {
					t.Fatalf("move %d: %+v\n%s", i, h, p.text())
				}
				if standby != nil {
					standby.waitRole(manifest.RoleRetired)
					standby.end()
				}
				standby, old = old, p
			}
			l.end()
			if !c.caughtUp(l) {
				t.Error("not everything is printed")
			}
			checkState(t, l)
			// The end of the current one is a move back.
			old.end()
			standby.waitRole(manifest.RoleCurrent)
			standby.end()
			table := c.check(t, l)
			empty()
			slices.Sort(took)
			t.Logf("%d moves, %.0f events a second at each hook, a move takes %s (p50), %s (p99), %s (longest)\n%s", tt.moves, l.perSecond(),
				at(took, 50), at(took, 99), took[len(took)-1], table)
			if c.versions[1] == 0 || c.versions[2] == 0 {
				t.Errorf("records by version: %v", c.versions)
			}
		})
	}
}

// at returns a percentile of sorted times.
func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)].Round(100 * time.Microsecond)
}
