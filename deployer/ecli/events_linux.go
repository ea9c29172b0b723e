// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/perf"
)

// flushSize is how many bytes of output are collected while events keep coming;
// without more events they are written at once.
const flushSize = 64 << 10

// An eventReader takes events out of a ring buffer or perf buffer.
type eventReader interface {
	// next returns an event, or how many were lost instead. The event is valid
	// until it is released. Without one the error is
	//   - errDry: all that was there is returned, and not released yet;
	//   - os.ErrDeadlineExceeded: none has come for some time;
	//   - errFlushed: none is there, and Flush was called.
	next() (event []byte, lost uint64, err error)
	// release says that what next returned was written out.
	release()
	Flush() error
	Close() error
}

var (
	errDry     = errors.New("no event is waiting")
	errFlushed = errors.New("all events are read")
)

type perfReader struct {
	*perf.Reader
	record  perf.Record
	timeout time.Duration
	// last is true when next has returned what was there and not said so.
	last bool
}

// next cannot tell an event that lacks up to seven bytes from a whole one: the
// kernel pads them to eight bytes less four. It tells of a loss with the next
// event that finds room, so that what is lost at the very end is not counted.
func (r *perfReader) next() (event []byte, lost uint64, err error) {
	if r.last {
		r.last = false
		return nil, 0, errDry
	}
	r.SetDeadline(time.Now().Add(r.timeout))
	err = r.ReadInto(&r.record)
	if errors.Is(err, perf.ErrFlushed) {
		return nil, 0, errFlushed
	}
	r.last = err == nil && r.record.Remaining == 0
	return r.record.RawSample, r.record.LostSamples, err
}

// release has nothing to do: the events that next returns are copies.
func (r *perfReader) release() {}

// An eventSource prints the events of a ring buffer or perf buffer.
type eventSource struct {
	mapName  string
	reader   eventReader
	printer  *printer
	sink     *sink
	reporter *reporter
	buf      []byte
	// format appends an event to buf, and write takes what is in it.
	format func(dst, event []byte) []byte
	write  func([]byte) error
	// running is held while events are read.
	running sync.Mutex
	closing atomic.Bool
	closed  sync.Once
}

func newEventSource(e *export, p *plan, m *ebpf.Map, pr *printer, out *sink, r *reporter) (*eventSource, error) {
	s := &eventSource{mapName: e.mapName, printer: pr, sink: out, reporter: r, format: pr.event, write: out.write}
	if e.typ == ebpf.PerfEventArray {
		reader, err := perf.NewReader(m, p.perfBuffer)
		if err != nil {
			return nil, explain(fmt.Errorf("open perf buffer %s of %d bytes a CPU: %w", e.mapName, p.perfBuffer, err))
		}
		s.reader = &perfReader{Reader: reader, timeout: p.pollTimeout}
		r.countLost(e.mapName)
		return s, nil
	}
	reader, err := openRing(m, p.pollTimeout)
	if err != nil {
		return nil, explain(fmt.Errorf("open ring buffer %s: %w", e.mapName, err))
	}
	s.reader = reader
	return s, nil
}

func (s *eventSource) header() []byte { return s.printer.header() }

func (s *eventSource) run() error {
	s.running.Lock()
	defer func() {
		s.running.Unlock()
		if s.closing.Load() {
			_ = s.close()
		}
	}()
	for {
		event, lost, err := s.reader.next()
		switch {
		case err == nil && lost == 0 && len(event) >= s.printer.layout.need:
			s.printer.sameTime = len(s.buf) > 0
			s.buf = s.format(s.buf, event)
			if len(s.buf) < flushSize {
				continue
			}
		case err == nil && lost > 0:
			s.reporter.lostEvents(s.mapName, lost)
			s.sink.progress.Add(1)
			continue
		case err == nil:
			s.reporter.malformedEvent(s.mapName, len(event), s.printer.layout)
			s.sink.progress.Add(1)
			continue
		case errors.Is(err, errDry):
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.reporter.due()
		case errors.Is(err, errFlushed):
			return s.flush()
		default:
			return fmt.Errorf("read events of map %s: %w", s.mapName, err)
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
}

// flush writes what is collected, and only then gives the events back.
func (s *eventSource) flush() error {
	if err := s.write(s.buf); err != nil {
		return err
	}
	s.buf = s.buf[:0]
	s.reader.release()
	return nil
}

func (s *eventSource) finish(bool) { _ = s.reader.Flush() }

// hold keeps events while nobody prints: in the ring buffer as long as it is not
// half full, where they outlive this process, then in memory. A perf buffer is
// left as it is; it counts what finds no room.
func (s *eventSource) hold(stop <-chan struct{}) error {
	r, ok := s.reader.(*ring)
	if !ok {
		return nil
	}
	if err := r.hold(stop); err != nil {
		return fmt.Errorf("hold events of map %s: %w", s.mapName, err)
	}
	return nil
}

// close lets go of the buffer. While run is still writing events out of it, to an
// output that takes nothing, it is run that does so when it ends.
func (s *eventSource) close() (err error) {
	s.closing.Store(true)
	if !s.running.TryLock() {
		return nil
	}
	defer s.running.Unlock()
	s.closed.Do(func() { err = s.reader.Close() })
	return err
}
