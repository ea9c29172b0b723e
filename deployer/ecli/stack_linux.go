// SPDX-License-Identifier: Apache-2.0

package ecli

import "sync"

// maxBatches is how many times [flushSize] bytes of events wait to be printed
// while symbols are looked for. Behind that they wait in the map.
const maxBatches = 128

// A stackSource prints events as stacks. Reading and printing are apart: to find
// a symbol may take longer than the map has room for events.
type stackSource struct {
	*eventSource
	printer *stackPrinter
	symbols *symbolizer // nil without symbols
	batches chan []byte
	// printing is held while run prints.
	printing sync.Mutex
}

func newStackSource(f *stackFormat, events *eventSource, root string) *stackSource {
	s := &stackSource{
		eventSource: events,
		printer:     &stackPrinter{stackFormat: f, json: events.printer.json, text: events.printer.text},
	}
	if f.withSymbols {
		s.symbols = newSymbolizer(root, events.reporter)
		s.printer.symbols = s.symbols
	}
	// Each event takes as much of a batch as its type has bytes.
	events.format = func(dst, event []byte) []byte { return append(dst, event[:f.layout.need]...) }
	events.write = func(batch []byte) error {
		if len(batch) > 0 {
			s.batches <- append([]byte(nil), batch...)
		}
		return nil
	}
	return s
}

// header is empty: a stack is a block of lines of its own.
func (s *stackSource) header() []byte { return nil }

func (s *stackSource) run() error {
	s.printing.Lock()
	defer s.printing.Unlock()
	s.batches = make(chan []byte, maxBatches)
	printed := make(chan error, 1)
	go func() { printed <- s.print() }()
	err := s.eventSource.run()
	close(s.batches)
	if printErr := <-printed; err == nil {
		err = printErr
	}
	return err
}

// print prints what was read until there is no more. After an error it makes the
// reading end and takes the rest in silence.
func (s *stackSource) print() (err error) {
	need := s.printer.layout.need
	var out []byte
	for batch := range s.batches {
		if err != nil {
			continue
		}
		for at := 0; err == nil && at < len(batch); at += need {
			out = s.printer.event(out, batch[at:at+need])
			s.sink.progress.Add(1)
			if len(out) >= flushSize {
				err = s.sink.write(out)
				out = out[:0]
			}
		}
		if err == nil && len(s.batches) == 0 {
			err = s.sink.write(out)
			out = out[:0]
		}
		if err != nil {
			s.finish(true)
		}
	}
	return err
}

// close closes the files with symbols, unless run is still printing with them: to
// an output that takes nothing, at the end of the process.
func (s *stackSource) close() error {
	if s.symbols != nil && s.printing.TryLock() {
		s.symbols.close()
		s.printing.Unlock()
	}
	return s.eventSource.close()
}
