// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// maxLine bounds what is held back of a line of diagnostics, in bytes.
const maxLine = 64 << 10

// diagnostics passes the compiler's messages on, with the paths that the user
// knows: the compiler sees an unpacked copy of the source.
type diagnostics struct {
	w        io.Writer
	from     []byte // the folder that the compiler sees, with its slash
	to       []byte // the user's folder, with its slash; empty for the current one
	line     []byte
	partial  bool // the start of the line is written already
	missing  []string
	writeErr error
}

func newDiagnostics(w io.Writer, from string, s *Source) *diagnostics {
	if w == nil {
		w = io.Discard
	}
	d := diagnostics{w: w, from: []byte(strings.TrimRight(from, "/") + "/")}
	if s.Dir != "." {
		d.to = []byte(strings.TrimRight(s.Dir, "/") + "/")
	}
	return &d
}

// messageRE is what may stand before the path in a message: clang's own words,
// or those of an ecc.
var messageRE = regexp.MustCompile(`^(?:In file included from | +from |Error: compile |(?:ERROR|WARN|INFO) \[[^\]]*\] )?`)

var missingRE = regexp.MustCompile(`fatal error: '([^']+)' file not found`)

// Write implements [io.Writer]. It takes all of p; an error of the writer behind
// it is returned by Close, so that a build does not hang on a closed pipe.
func (d *diagnostics) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			d.line = append(d.line, p...)
			if len(d.line) > maxLine {
				d.flush()
				d.partial = true
			}
			break
		}
		d.line = append(d.line, p[:i+1]...)
		d.flush()
		d.partial = false
		p = p[i+1:]
	}
	return n, nil
}

func (d *diagnostics) flush() {
	line := d.line
	d.line = nil
	if !d.partial {
		if m := missingRE.FindSubmatch(line); m != nil {
			d.missing = append(d.missing, string(m[1]))
		}
		at := len(messageRE.Find(line))
		if rest, ok := bytes.CutPrefix(line[at:], d.from); ok {
			line = append(append(append([]byte(nil), line[:at]...), d.to...), rest...)
		}
	}
	if d.writeErr == nil && len(line) > 0 {
		_, d.writeErr = d.w.Write(line)
	}
}

// Close writes what is left of the last line.
func (d *diagnostics) Close() error {
	d.flush()
	return d.writeErr
}

// compileError is a compiler's error in which paths are the user's.
type compileError struct {
	text string
	err  error
}

func (e *compileError) Error() string { return e.text }
func (e *compileError) Unwrap() error { return e.err }

// explain makes an error of the compiler one for the user: with the user's
// paths, and advice when a file that the compiler missed is in the folder.
func (d *diagnostics) explain(s *Source, err error) error {
	text := strings.ReplaceAll(err.Error(), string(d.from), string(d.to))
	explained := error(&compileError{text: text, err: err})
	for _, name := range d.missing {
		for _, dir := range []string{path.Dir(s.File), "."} {
			inside := path.Join(dir, name)
			if !manifest.IsLocalPath(inside) {
				continue
			}
			if _, statErr := os.Stat(s.path(inside)); statErr == nil {
				return manifest.WithKind(manifest.KindOf(err), explained, fmt.Sprintf(
					"%s is there, but its include was not seen: list it under `files` in %s.", s.path(inside), manifest.SpecFile))
			}
		}
	}
	return explained
}

// writeFailed says that messages of the compiler did not reach the user.
func writeFailed(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(errors.New("the compiler's messages could not be written"), err)
}
