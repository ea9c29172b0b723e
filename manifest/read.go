// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io"
)

// ErrTooLarge is found by errors.Is on what [ReadBounded] returns for too much.
var ErrTooLarge = errors.New("too large")

// ReadBounded reads all of r, and fails with [ErrTooLarge] where that is more
// than limit bytes: no more than one of them is read beyond it. Other errors are
// those of r.
func ReadBounded(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than the %d bytes that are allowed", ErrTooLarge, limit)
	}
	return data, nil
}
