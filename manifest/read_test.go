// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadBounded(t *testing.T) {
	for _, tt := range []struct {
		text    string
		limit   int64
		tooMuch bool
	}{
		{"", 0, false}, {"x", 0, true}, {"four", 4, false}, {"fives", 4, true}, {"much more than that", 4, true},
	} {
		r := strings.NewReader(tt.text)
		data, err := ReadBounded(r, tt.limit)
		switch {
		case tt.tooMuch && (!errors.Is(err, ErrTooLarge) || int64(len(tt.text)-r.Len()) > tt.limit+1):
			t.Errorf("%q, at most %d: %v, %d bytes were read", tt.text, tt.limit, err, len(tt.text)-r.Len())
		case !tt.tooMuch && (err != nil || string(data) != tt.text):
			t.Errorf("%q, at most %d: %q, %v", tt.text, tt.limit, data, err)
		}
	}
	if _, err := ReadBounded(iotest.ErrReader(io.ErrUnexpectedEOF), 1); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrTooLarge) {
		t.Errorf("the reader's error became %v", err)
	}
}
