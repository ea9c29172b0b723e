// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// A sampleSource prints all that a map holds, at once, then at an interval, and
// a last time at the end unless another instance goes on with the map.
type sampleSource struct {
	mapName  string
	m        *ebpf.Map
	printer  *pairPrinter
	sink     *sink
	interval time.Duration
	// clear empties the map after the last time.
	clear bool
	// stop ends run, true with a last round.
	stop chan bool
	buf  []byte
}

// maxInterval is 34 years.
const maxInterval = 1 << 40 * time.Millisecond

func newSampleSource(e *export, m *ebpf.Map, pr *printer, out *sink) (*sampleSource, error) {
	perCPU := slices.Contains([]ebpf.MapType{ebpf.PerCPUHash, ebpf.PerCPUArray, ebpf.LRUCPUHash}, e.typ)
	pairs, err := newPairPrinter(pr, e.key, e.sample, perCPU)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", e.mapName, err)
	}
	interval := maxInterval
	if ms := e.sample.Interval; ms < uint64(maxInterval/time.Millisecond) {
		interval = max(time.Duration(ms)*time.Millisecond, time.Millisecond)
	}
	return &sampleSource{
		mapName: e.mapName, m: m, printer: pairs, sink: out, interval: interval,
		// The kernel deletes nothing from arrays.
		clear: e.sample.ClearMap && e.typ != ebpf.Array && e.typ != ebpf.PerCPUArray,
		stop:  make(chan bool, 1),
	}, nil
}

func (s *sampleSource) header() []byte { return s.printer.header() }

func (s *sampleSource) run() error {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	for {
		if err := s.round(); err != nil {
			return err
		}
		select {
		case last := <-s.stop:
			if !last {
				return nil
			}
			if err := s.round(); err != nil {
				return err
			}
			return s.empty()
		case <-tick.C:
		}
	}
}

// round prints the map once.
func (s *sampleSource) round() error {
	var key, value []byte
	var values [][]byte // of each CPU
	out := any(&value)
	if s.printer.perCPU {
		out = &values
	}
	entries := s.m.Iterate()
	for entries.Next(&key, out) {
		if s.printer.perCPU {
			for cpu, value := range values {
				s.buf = s.printer.pair(s.buf, key, value, cpu)
			}
		} else {
			s.buf = s.printer.pair(s.buf, key, value, 0)
		}
		s.sink.progress.Add(1)
		if len(s.buf) >= flushSize {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	// Programs that delete keys meanwhile may send the iteration back to its
	// start; what there is was then printed, some of it twice.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("read map %s: %w", s.mapName, err)
	}
	return s.flush()
}

func (s *sampleSource) flush() error {
	err := s.sink.write(s.buf)
	s.buf = s.buf[:0]
	return err
}

// empty deletes all keys when the package wants that.
func (s *sampleSource) empty() error {
	if !s.clear {
		return nil
	}
	var key []byte
	for range s.m.MaxEntries() {
		s.sink.progress.Add(1)
		err := s.m.NextKey(nil, &key)
		if err == nil {
			err = s.m.Delete(key)
		} else if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("clear map %s: %w", s.mapName, err)
		}
	}
	return nil
}

func (s *sampleSource) finish(last bool) {
	select {
	case s.stop <- last:
	default: // it ends already
	}
}

// hold has nothing to do: the map keeps what it has.
func (s *sampleSource) hold(<-chan struct{}) error { return nil }

// close leaves the map, which the run closes.
func (s *sampleSource) close() error { return nil }
