// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A standalone executable is a runner with package.json behind it, and behind
// that a trailer: the length of package.json in bytes (8 bytes, little endian),
// its SHA-256 and standaloneMagic.
const (
	standaloneMagic   = "\x00ebpm standalone"
	standaloneTrailer = 8 + sha256.Size + len(standaloneMagic)
)

// AppendStandalone returns a runner's executable with a package behind it.
func AppendStandalone(runner, packageJSON []byte) []byte {
	sum := sha256.Sum256(packageJSON)
	out := make([]byte, 0, len(runner)+len(packageJSON)+standaloneTrailer)
	out = append(append(out, runner...), packageJSON...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(packageJSON)))
	return append(append(out, sum[:]...), standaloneMagic...)
}

// ReadStandalone returns the package.json behind a runner's executable of size
// bytes, or nil where there is none. Of the executable itself nothing is read.
// A package that is not whole is [KindUnverified].
func ReadStandalone(executable io.ReaderAt, size int64) ([]byte, error) {
	trailer := make([]byte, standaloneTrailer)
	end := size - int64(len(trailer))
	if end < 0 {
		return nil, nil
	}
	if _, err := executable.ReadAt(trailer, end); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.HasSuffix(trailer, []byte(standaloneMagic)) {
		return nil, nil
	}
	length := binary.LittleEndian.Uint64(trailer)
	if length > MaxPackageSize || int64(length) > end {
		return nil, WithKind(KindUnverified, fmt.Errorf("the package is said to have %d bytes", length), "")
	}
	data := make([]byte, length)
	if _, err := executable.ReadAt(data, end-int64(length)); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], trailer[8:8+sha256.Size]) {
		return nil, WithKind(KindUnverified, errors.New("the package does not have its recorded digest"), "Copy or build the file again.")
	}
	return data, nil
}
