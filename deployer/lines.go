// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"
)

// maxLine is the longest line of a log that is read whole, in bytes.
const maxLine = 1 << 20

// lineReader reads lines of bounded length.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line without its end; cut is true when it is only the
// start of one longer than maxLine. A last line without an end is a line. The
// error is io.EOF at the end.
func (l *lineReader) next() (line []byte, cut bool, err error) {
	for {
		part, err := l.r.ReadSlice('\n')
		if room := maxLine - len(line); len(part) > room {
			line, cut = append(line, part[:room]...), true
		} else {
			line = append(line, part...)
		}
		switch {
		case err == nil:
			return bytes.TrimSuffix(line, []byte("\n")), cut, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, cut, nil
		default:
			return nil, false, err
		}
	}
}

// splitTime takes the time off a line, which the API server puts in front when
// it is asked to.
func splitTime(line []byte) (at time.Time, rest []byte, ok bool) {
	stamp, rest, found := bytes.Cut(line, []byte(" "))
	if !found {
		stamp, rest = line, nil
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return time.Time{}, line, false
	}
	return at, rest, true
}
