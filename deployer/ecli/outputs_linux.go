// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// stuckTimeout is how long the end waits for an output that takes nothing.
var stuckTimeout = 3 * time.Second

// A source prints one map.
type source interface {
	// header returns what stands above its lines.
	header() []byte
	// run prints until finish was called and all is printed that was there then.
	// It may be called again after that.
	run() error
	// finish makes run return. last is false where another instance goes on.
	finish(last bool)
	// hold keeps what comes while nothing is printed, until stop is closed.
	hold(stop <-chan struct{}) error
	close() error
}

// outputs are the sources of a run. Each is read by itself, so that none waits
// for another one.
type outputs struct {
	sources []source
	sink    sink
	// rings are the maps that are ring buffers.
	rings []string
	// header is what stands above the lines; nil has them printed without.
	header *Header
}

// A sink takes whole lines from several sources. They write the bytes
// themselves and never hold more than one buffer of them: when the output is
// slow, events wait in the map, whose size the package chose.
type sink struct {
	mu       sync.Mutex
	out      io.Writer
	reporter *reporter
	// progress grows whenever bytes were written or events read.
	progress atomic.Uint64
}

func (s *sink) write(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.out.Write(lines)
	s.progress.Add(1)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	s.reporter.wrote(n)
	return nil
}

func newOutputs(p *plan, maps map[string]*ebpf.Map, o *Options, r *reporter) (_ *outputs, err error) {
	out := &outputs{sink: sink{out: o.Stdout, reporter: r}, header: o.Header}
	if out.header == nil {
		out.header = new(Header)
	}
	defer func() {
		if err != nil {
			_ = out.close()
		}
	}()
	widenPipe(o.Stdout)
	text := quoteNone
	if isTerminal(o.Stdout) {
		text = quoteTerminal
	}
	for i := range p.exports {
		e := &p.exports[i]
		pr := &printer{layout: e.layout, json: o.JSON, text: text, now: o.Now}
		s, err := newSource(e, p, maps[e.mapName], pr, &out.sink, r, o.Root)
		if err != nil {
			return nil, err
		}
		out.sources = append(out.sources, s)
		if e.typ == ebpf.RingBuf {
			out.rings = append(out.rings, e.mapName)
		}
	}
	return out, nil
}

// pipeSize is how many bytes a pipe takes before its reader must run. Linux lets
// every process have that much by default, /proc/sys/fs/pipe-max-size.
const pipeSize = 1 << 20

// widenPipe makes room in out, when it is a pipe, for bursts of events. By default
// it takes 64 KiB, which is less than one buffer of lines.
func widenPipe(out io.Writer) {
	if f, ok := out.(*os.File); ok {
		if conn, err := f.SyscallConn(); err == nil {
			// What is no pipe refuses, as does a user's limit; then it stays as it is.
			_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
		}
	}
}

func newSource(e *export, p *plan, m *ebpf.Map, pr *printer, out *sink, r *reporter, root string) (source, error) {
	if e.sample != nil {
		return newSampleSource(e, m, pr, out)
	}
	events, err := newEventSource(e, p, m, pr, out, r)
	if err != nil || e.stacks == nil {
		return events, err
	}
	return newStackSource(e.stacks, events, root), nil
}

// run prints the headers and then what the sources have, until
// [outputs.finish] was called or one of them fails.
func (o *outputs) run() error {
	var headers []byte
	for _, s := range o.sources {
		headers = append(headers, s.header()...)
	}
	if o.header != nil && o.header.replace(string(headers)) {
		if err := o.sink.write(headers); err != nil {
			return err
		}
	}
	done := make(chan error, len(o.sources))
	for _, s := range o.sources {
		go func() { done <- s.run() }()
	}
	var first error
	for range o.sources {
		if err := <-done; err != nil && first == nil {
			first = err
			o.finish(true)
		}
	}
	return first
}

// finish makes run return once all is printed. last is false where another
// instance goes on with the maps.
func (o *outputs) finish(last bool) {
	for _, s := range o.sources {
		s.finish(last)
	}
}

// hold keeps what comes until stop is closed.
func (o *outputs) hold(stop <-chan struct{}) error {
	errs := make(chan error, len(o.sources))
	for _, s := range o.sources {
		go func() { errs <- s.hold(stop) }()
	}
	var all []error
	for range o.sources {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// wait waits for run to end, which an output that takes nothing could delay for
// ever.
func (o *outputs) wait(done <-chan error) error {
	tick := time.NewTicker(stuckTimeout)
	defer tick.Stop()
	for last := o.sink.progress.Load(); ; {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if now := o.sink.progress.Load(); now != last {
				last = now
				continue
			}
			return fmt.Errorf("write events: the output has taken nothing for %s; events before the end are lost", stuckTimeout)
		}
	}
}

func (o *outputs) close() error {
	var errs []error
	for _, s := range o.sources {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}
