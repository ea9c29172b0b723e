// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Fields are the fields of a JSON object by name, each as it was written.
type Fields map[string]json.RawMessage

const hexDigits = "0123456789abcdef"

// AppendJSONString appends s as a JSON string in the way of Rust's serde_json,
// which eunomia-bpf's tools write: only the quote, the backslash and bytes
// below 0x20 are escaped. (encoding/json would also escape U+2028, and by
// default < > &.) Bytes that are not UTF-8 become U+FFFD, so that the result is
// always valid JSON.
func AppendJSONString(dst []byte, s string) []byte {
	s = strings.ToValidUTF8(s, "\uFFFD")
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// encode appends v as compact JSON with the keys of every object sorted
// bytewise and strings as [AppendJSONString] writes them.
func encode(dst []byte, v reflect.Value) ([]byte, error) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(dst, "null"...), nil
		}
		return encode(dst, v.Elem())
	case reflect.Bool:
		if v.Bool() {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case reflect.String:
		return AppendJSONString(dst, v.String()), nil
	case reflect.Slice:
		if raw, ok := v.Interface().(json.RawMessage); ok {
			return appendSorted(dst, raw)
		}
		if v.IsNil() {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '[')
		for i := range v.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = encode(dst, v.Index(i)); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case reflect.Struct:
		fields, err := fieldsOf(v)
		if err != nil {
			return nil, err
		}
		return appendFields(dst, fields), nil
	default:
		b, err := json.Marshal(v.Interface())
		if err != nil {
			return nil, err
		}
		return append(dst, b...), nil
	}
}

// appendSorted appends raw in compact form with sorted keys. Numbers keep
// their text; of equal keys the last wins.
func appendSorted(dst []byte, raw []byte) ([]byte, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return append(dst, "null"...), nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return appendValue(dst, v), nil
}

// appendValue appends what encoding/json decodes with numbers as text.
func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendJSONString(dst, name), ':')
			dst = appendValue(dst, v[name])
		}
		return append(dst, '}')
	case []any:
		dst = append(dst, '[')
		for i, item := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, item)
		}
		return append(dst, ']')
	case string:
		return AppendJSONString(dst, v)
	case json.Number:
		return append(dst, v...)
	case bool:
		return strconv.AppendBool(dst, v)
	default:
		return append(dst, "null"...)
	}
}

// maxNesting is how deep arrays and objects may lie in each other. What ecc
// writes has eight levels at most; the rest is room for fields that are not known.
const maxNesting = 32

// checkNesting refuses JSON that is nested deeper than maxNesting. It does not
// check that it is JSON.
func checkNesting(data []byte) error {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxNesting {
				return fmt.Errorf("arrays and objects lie in each other more than %d deep", maxNesting)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

func appendFields(dst []byte, fields Fields) []byte {
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(fields)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendJSONString(dst, name)
		dst = append(dst, ':')
		dst = append(dst, fields[name]...)
	}
	return append(dst, '}')
}

// An object's Go fields are named by their tag skel. A field is required when
// it is read and always written; with the option "optional" it may be absent
// when it is read, with "omitzero" also a zero value is not written. With
// "annotation", which is omitzero too, a value of another type is no error:
// ecc stores what a comment says, whatever it is. A field of type Fields holds
// what the type does not know, and what of an omitzero field it cannot hold.
var fieldsType = reflect.TypeFor[Fields]()

type structField struct {
	index    int
	name     string
	optional bool
	omitZero bool
	lenient  bool
}

func structFields(t reflect.Type) (known []structField, extra int) {
	extra = -1
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == fieldsType {
			extra = i
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("skel"), ",")
		known = append(known, structField{
			index:    i,
			name:     name,
			optional: options != "",
			omitZero: options == "omitzero" || options == "annotation",
			lenient:  options == "annotation",
		})
	}
	return known, extra
}

func fieldsOf(v reflect.Value) (Fields, error) {
	fields := Fields{}
	known, extra := structFields(v.Type())
	if extra >= 0 {
		for name, raw := range v.Field(extra).Interface().(Fields) {
			sorted, err := appendSorted(nil, raw)
			if err != nil {
				return nil, fmt.Errorf("encode field %s: %w", name, err)
			}
			fields[name] = sorted
		}
	}
	for _, f := range known {
		value := v.Field(f.index)
		if f.omitZero && value.IsZero() {
			continue
		}
		b, err := encode(nil, value)
		if err != nil {
			return nil, fmt.Errorf("encode field %s: %w", f.name, err)
		}
		fields[f.name] = b
	}
	return fields, nil
}

// decodeObject fills the struct that v points to from a JSON object and puts
// the fields that it does not know into its Fields.
func decodeObject(data []byte, v any) error {
	var fields Fields
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	if fields == nil {
		return errors.New("expected an object, got null")
	}
	target := reflect.ValueOf(v).Elem()
	known, extra := structFields(target.Type())
	for _, f := range known {
		raw, ok := fields[f.name]
		if !ok {
			if !f.optional {
				return fmt.Errorf("missing field `%s`", f.name)
			}
			continue
		}
		value := target.Field(f.index)
		if err := json.Unmarshal(raw, value.Addr().Interface()); err != nil {
			if !f.lenient {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			value.SetZero()
		}
		if f.omitZero && value.IsZero() {
			continue
		}
		delete(fields, f.name)
	}
	if extra >= 0 && len(fields) > 0 {
		target.Field(extra).Set(reflect.ValueOf(fields))
	}
	return nil
}

func encodeObject(v any) ([]byte, error) {
	data, err := encode(nil, reflect.ValueOf(v))
	if err != nil {
		return nil, err
	}
	// What is written can be read again.
	if err := checkNesting(data); err != nil {
		return nil, err
	}
	return data, nil
}
