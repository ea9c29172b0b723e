// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// flushSize is how many bytes of output are collected while events keep coming;
// without more events they are written at once.
const flushSize = 64 << 10

// stuckTimeout is how long the end waits for an output that takes nothing.
var stuckTimeout = 3 * time.Second

// An eventReader prints the events of a ring buffer. It writes the bytes itself
// and never holds more than one buffer of them: when the output is slow, events
// wait in the ring, whose size the package chose.
type eventReader struct {
	mapName  string
	ring     *ringbuf.Reader
	printer  *printer
	out      io.Writer
	reporter *reporter
	timeout  time.Duration
	buf      []byte
	// progress grows whenever bytes were written or events read.
	progress atomic.Uint64
}

func newEventReader(p *plan, coll *ebpf.Collection, o *Options, r *reporter) (*eventReader, error) {
	ring, err := ringbuf.NewReader(coll.Maps[p.export])
	if err != nil {
		return nil, explain(fmt.Errorf("open ring buffer %s: %w", p.export, err))
	}
	text := quoteNone
	if isTerminal(o.Stdout) {
		text = quoteTerminal
	}
	return &eventReader{
		mapName:  p.export,
		ring:     ring,
		printer:  &printer{layout: p.layout, json: o.JSON, text: text, now: o.Now},
		out:      o.Stdout,
		reporter: r,
		timeout:  p.pollTimeout,
	}, nil
}

// run prints the header and then events until [eventReader.finish] was called
// and the ring is empty.
func (r *eventReader) run() error {
	r.buf = append(r.buf, r.printer.header()...)
	if err := r.flush(); err != nil {
		return err
	}
	var rec ringbuf.Record
	for {
		r.ring.SetDeadline(time.Now().Add(r.timeout))
		err := r.ring.ReadInto(&rec)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			r.reporter.due()
			continue
		case errors.Is(err, ringbuf.ErrFlushed):
			return nil
		case err != nil:
			return fmt.Errorf("read ring buffer %s: %w", r.mapName, err)
		}
		r.progress.Add(1)
		if len(rec.RawSample) < r.printer.layout.need {
			r.reporter.malformedEvent(r.mapName, len(rec.RawSample), r.printer.layout)
		} else {
			r.buf = r.printer.event(r.buf, rec.RawSample)
		}
		if rec.Remaining == 0 || len(r.buf) >= flushSize {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
}

func (r *eventReader) flush() error {
	if len(r.buf) == 0 {
		return nil
	}
	_, err := r.out.Write(r.buf)
	r.buf = r.buf[:0]
	r.progress.Add(1)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

// finish makes run return once the ring is empty.
func (r *eventReader) finish() { _ = r.ring.Flush() }

// wait waits for run to end, which an output that takes nothing could delay for
// ever.
func (r *eventReader) wait(done <-chan error) error {
	tick := time.NewTicker(stuckTimeout)
	defer tick.Stop()
	for last := r.progress.Load(); ; {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if now := r.progress.Load(); now != last {
				last = now
				continue
			}
			return fmt.Errorf("write events: the output has taken nothing for %s; events before the end are lost", stuckTimeout)
		}
	}
}

func (r *eventReader) close() error { return r.ring.Close() }
