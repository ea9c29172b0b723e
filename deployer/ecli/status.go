// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// recordInterval is the least time between two records of events that did not
// reach the output for the same reason.
const recordInterval = 10 * time.Second

// A reporter tells how an instance is: records of its status, and lines about
// events that were lost or did not fit their type. Several sources may use it
// at once.
type reporter struct {
	stderr   io.Writer
	tell     func(manifest.Status)
	now      func() time.Time
	kernel   string
	programs []manifest.ProgramStatus
	// repeats is true in a Pod, whose log is rotated. Elsewhere perhaps nobody reads
	// stderr, whose pipe would fill.
	repeats bool

	mu              sync.Mutex
	handover        *manifest.Handover // nil without handovers
	lost, malformed tally
	printed         int // bytes of events since the last record
}

// A tally counts events that did not reach the output, by map.
type tally struct {
	event  string // of the records
	counts map[string]uint64
	// pending is true when counts have grown since the record before.
	pending bool
	last    time.Time
}

func newReporter(o *Options, kernel string) *reporter {
	r := &reporter{
		stderr: o.Stderr, tell: o.Status, now: o.Now, kernel: kernel, repeats: o.ReadySocket != "",
		lost:      tally{event: manifest.StatusLost},
		malformed: tally{event: manifest.StatusMalformed},
	}
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

// warn prints a sentence about something that is missing.
func (r *reporter) warn(sentence string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.stderr, "warning: %s\n", TextFor(r.stderr, sentence))
}

func (r *reporter) record(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recordLocked(event)
}

// setHandover says what the records are to say of handovers from now on, and
// reports whether it is the first time.
func (r *reporter) setHandover(h *manifest.Handover) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first = r.handover == nil
	r.handover = h
	return first
}

// wrote repeats the record when many events have been printed since the last one.
// Records of many programs are long, and come less often.
func (r *reporter) wrote(bytes int) {
	if !r.repeats {
		return
	}
	const perProgram = 1 << 10 // bytes of events
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.printed += bytes; r.printed >= max(manifest.StatusInterval, perProgram*len(r.programs)) {
		r.recordLocked(manifest.StatusRunning)
	}
}

func (r *reporter) recordLocked(event string) {
	r.printed = 0
	r.tell(manifest.Status{
		Event:     event,
		Time:      r.now().UTC().Truncate(time.Millisecond),
		Kernel:    r.kernel,
		Programs:  r.programs,
		Lost:      maps.Clone(r.lost.counts),
		Malformed: maps.Clone(r.malformed.counts),
		Handover:  r.handover,
	})
}

// countLost says that lost events of this map are counted.
func (r *reporter) countLost(mapName string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost.add(mapName, 0)
}

// lostEvents counts n events that found their buffer full.
func (r *reporter) lostEvents(mapName string, n uint64) {
	r.count(&r.lost, mapName, n, func(total uint64) string {
		return fmt.Sprintf("map %s: %d events are lost: the buffer was full (%d lost so far)", mapName, n, total)
	})
}

// malformedEvent counts an event of size bytes that does not fit l.
func (r *reporter) malformedEvent(mapName string, size int, l *layout) {
	r.count(&r.malformed, mapName, 1, func(total uint64) string {
		return fmt.Sprintf("map %s: an event of %d bytes is left out: %s takes %d (%d left out so far)", mapName, size, l.what, l.need, total)
	})
}

func (t *tally) add(mapName string, n uint64) {
	if t.counts == nil {
		t.counts = map[string]uint64{}
	}
	t.counts[mapName] += n
}

func (r *reporter) count(t *tally, mapName string, n uint64, line func(total uint64) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.add(mapName, n)
	t.pending = true
	now := r.now()
	if !t.last.IsZero() && now.Sub(t.last) < recordInterval {
		return
	}
	t.last, t.pending = now, false
	fmt.Fprint(r.stderr, TextFor(r.stderr, line(t.counts[mapName])+"\n"))
	r.recordLocked(t.event)
}

// due tells of events that came too soon after the record before.
func (r *reporter) due() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range []*tally{&r.lost, &r.malformed} {
		if t.pending && r.now().Sub(t.last) >= recordInterval {
			t.last, t.pending = r.now(), false
			r.recordLocked(t.event)
		}
	}
}
