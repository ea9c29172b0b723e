// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// normalizeJSON returns raw, one JSON value, with its numbers as Rust's
// serde_json writes them: 1e3 becomes 1000.0, integers of 64 bits stay.
func normalizeJSON(raw []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text behind the value")
	}
	value, err := normalizeNumbers(value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func normalizeNumbers(value any) (any, error) {
	var err error
	switch v := value.(type) {
	case json.Number:
		text, err := normalNumber(v.String())
		return json.RawMessage(text), err
	case []any:
		for i := range v {
			if v[i], err = normalizeNumbers(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for key := range v {
			if v[key], err = normalizeNumbers(v[key]); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

func normalNumber(text string) (string, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && (n != 0 || text[0] != '-') {
		return text, nil
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return text, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "", fmt.Errorf("number %s is out of range", text)
	}
	// The shortest digits; plain up to 16 of them before the point.
	if a := math.Abs(f); a != 0 && (a < 1e-5 || a >= 1e16) {
		s := strconv.FormatFloat(f, 'e', -1, 64)
		mantissa, exponent, _ := strings.Cut(s, "e")
		n, err := strconv.Atoi(exponent)
		return mantissa + "e" + strconv.Itoa(n), err
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s, nil
}
