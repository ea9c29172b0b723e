// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// malformedInterval is the least time between two records of events left out.
const malformedInterval = 10 * time.Second

// A reporter tells how an instance is: records of its status, and lines about
// events that did not fit their type.
type reporter struct {
	stderr    io.Writer
	tell      func(manifest.Status)
	now       func() time.Time
	kernel    string
	programs  []manifest.ProgramStatus
	malformed map[string]uint64
	// pending is true when malformed has grown since the record before.
	pending bool
	last    time.Time
}

func newReporter(o *Options, kernel string) *reporter {
	r := &reporter{stderr: o.Stderr, tell: o.Status, now: o.Now, kernel: kernel}
	if r.tell == nil {
		forPeople := isTerminal(o.Stderr)
		r.tell = func(s manifest.Status) {
			if forPeople {
				return
			}
			if line, err := manifest.EncodeStatus(s); err == nil {
				fmt.Fprintf(o.Stderr, "%s\n", line)
			}
		}
	}
	return r
}

func (r *reporter) record(event string) {
	r.pending = false
	r.tell(manifest.Status{
		Event:     event,
		Time:      r.now().UTC().Truncate(time.Millisecond),
		Kernel:    r.kernel,
		Programs:  r.programs,
		Malformed: maps.Clone(r.malformed),
	})
}

// malformedEvent counts an event of size bytes that does not fit l.
func (r *reporter) malformedEvent(mapName string, size int, l *layout) {
	if r.malformed == nil {
		r.malformed = map[string]uint64{}
	}
	r.malformed[mapName]++
	r.pending = true
	now := r.now()
	if !r.last.IsZero() && now.Sub(r.last) < malformedInterval {
		return
	}
	r.last = now
	fmt.Fprint(r.stderr, TextFor(r.stderr, fmt.Sprintf("map %s: an event of %d bytes is left out: struct %s takes %d (%d left out so far)\n",
		mapName, size, l.name, l.need, r.malformed[mapName])))
	r.record(manifest.StatusMalformed)
}

// due tells of events left out that came too soon after the record before.
func (r *reporter) due() {
	if r.pending && r.now().Sub(r.last) >= malformedInterval {
		r.last = r.now()
		r.record(manifest.StatusMalformed)
	}
}
