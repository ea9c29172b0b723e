// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/ringbuf"
)

// flushSize is how many bytes of output are collected while events keep coming;
// without more events they are written at once.
const flushSize = 64 << 10

// An eventReader takes events out of a ring buffer or perf buffer.
type eventReader interface {
	// next returns an event, or how many were lost instead, and whether more
	// are waiting behind it. The event is valid until the next call.
	next() (event []byte, lost uint64, more bool, err error)
	SetDeadline(time.Time)
	// Flush makes next return ErrFlushed once nothing is waiting.
	Flush() error
	Close() error
}

type ringReader struct {
	*ringbuf.Reader
	record ringbuf.Record
}

func (r *ringReader) next() (event []byte, lost uint64, more bool, err error) {
	err = r.ReadInto(&r.record)
	return r.record.RawSample, 0, r.record.Remaining > 0, err
}

type perfReader struct {
	*perf.Reader
	record perf.Record
}

// next cannot tell an event that lacks up to seven bytes from a whole one: the
// kernel pads them to eight bytes less four. It tells of a loss with the next
// event that finds room, so that what is lost at the very end is not counted.
func (r *perfReader) next() (event []byte, lost uint64, more bool, err error) {
	err = r.ReadInto(&r.record)
	return r.record.RawSample, r.record.LostSamples, r.record.Remaining > 0, err
}

// An eventSource prints the events of a ring buffer or perf buffer.
type eventSource struct {
	mapName  string
	reader   eventReader
	printer  *printer
	sink     *sink
	reporter *reporter
	timeout  time.Duration
	buf      []byte
	// format appends an event to buf, and write takes what is in it.
	format func(dst, event []byte) []byte
	write  func([]byte) error
}

func newEventSource(e *export, p *plan, m *ebpf.Map, pr *printer, out *sink, r *reporter) (*eventSource, error) {
	s := &eventSource{
		mapName: e.mapName, printer: pr, sink: out, reporter: r, timeout: p.pollTimeout,
		format: pr.event, write: out.write,
	}
	if e.typ == ebpf.PerfEventArray {
		reader, err := perf.NewReader(m, p.perfBuffer)
		if err != nil {
			return nil, explain(fmt.Errorf("open perf buffer %s of %d bytes a CPU: %w", e.mapName, p.perfBuffer, err))
		}
		s.reader = &perfReader{Reader: reader}
		r.countLost(e.mapName)
		return s, nil
	}
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, explain(fmt.Errorf("open ring buffer %s: %w", e.mapName, err))
	}
	s.reader = &ringReader{Reader: reader}
	return s, nil
}

func (s *eventSource) header() []byte { return s.printer.header() }

func (s *eventSource) run() error {
	for {
		s.reader.SetDeadline(time.Now().Add(s.timeout))
		event, lost, more, err := s.reader.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// What the program discarded may have stood behind the last event.
			if err := s.flush(); err != nil {
				return err
			}
			s.reporter.due()
			continue
		case errors.Is(err, ringbuf.ErrFlushed), errors.Is(err, perf.ErrFlushed):
			return s.flush()
		case err != nil:
			return fmt.Errorf("read events of map %s: %w", s.mapName, err)
		}
		s.sink.progress.Add(1)
		switch {
		case lost > 0:
			s.reporter.lostEvents(s.mapName, lost)
		case len(event) < s.printer.layout.need:
			s.reporter.malformedEvent(s.mapName, len(event), s.printer.layout)
		default:
			s.buf = s.format(s.buf, event)
		}
		if !more || len(s.buf) >= flushSize {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
}

func (s *eventSource) flush() error {
	err := s.write(s.buf)
	s.buf = s.buf[:0]
	return err
}

func (s *eventSource) finish() { _ = s.reader.Flush() }

func (s *eventSource) close() error { return s.reader.Close() }
