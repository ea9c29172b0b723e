// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// applySettings writes the values into the data sections of spec, each in the
// form of its type in the object's BTF. A variable that only the description
// has is an option without effect.
func applySettings(spec *ebpf.CollectionSpec, settings []setting) error {
	for _, s := range settings {
		v := spec.Variables[s.variable]
		if v == nil || v.SectionName != s.section {
			if err := checkStranger(s); err != nil {
				return settingError(s, err)
			}
			continue
		}
		if v.Type == nil {
			return settingError(s, errors.New("the object's BTF does not have its type"))
		}
		value, err := variableBytes(spec, v)
		if err != nil {
			return settingError(s, err)
		}
		if err := encodeValue(value, v.Type.Type, s.value); err != nil {
			return settingError(s, err)
		}
	}
	// For each variable that is left, cilium/ebpf maps its section into memory,
	// which keeps the section's map in the kernel until the garbage collector
	// comes.
	spec.Variables = nil
	return nil
}

// variableBytes returns where in its data section v lies.
func variableBytes(spec *ebpf.CollectionSpec, v *ebpf.VariableSpec) ([]byte, error) {
	if m := spec.Maps[v.SectionName]; m != nil && len(m.Contents) == 1 {
		if data, ok := m.Contents[0].Value.([]byte); ok && uint64(v.Offset)+uint64(v.Size()) <= uint64(len(data)) {
			return data[v.Offset:][:v.Size()], nil
		}
	}
	return nil, fmt.Errorf("it lies outside of the object's section %s", v.SectionName)
}

func settingError(s setting, err error) error {
	return manifest.WithKind(manifest.KindUsage, fmt.Errorf("set variable %s (--%s): %w", s.variable, s.long, err), "")
}

// checkStranger checks a value against the type as the description spells it.
func checkStranger(s setting) error {
	for _, t := range []struct {
		names  []string
		size   uint32
		signed btf.IntEncoding
	}{
		{[]string{"int", "pid_t"}, 4, btf.Signed},
		{[]string{"short"}, 2, btf.Signed},
		{[]string{"long", "long long"}, 8, btf.Signed},
		{[]string{"unsigned int"}, 4, btf.Unsigned},
		{[]string{"unsigned short"}, 2, btf.Unsigned},
		{[]string{"unsigned long long"}, 8, btf.Unsigned},
	} {
		if slices.Contains(t.names, s.ctype) {
			return encodeValue(make([]byte, t.size), &btf.Int{Name: s.ctype, Size: t.size, Encoding: t.signed}, s.value)
		}
	}
	return nil
}

// encodeValue writes text as a value of type t into dst. Bytes of dst behind
// the NUL of a string stay.
func encodeValue(dst []byte, t btf.Type, text string) error {
	switch u := btf.UnderlyingType(t).(type) {
	case *btf.Int:
		if u.Encoding == btf.Bool || text == "true" || text == "false" {
			return encodeBool(dst, text)
		}
		return encodeInt(dst, u.Name, u.Encoding == btf.Signed, text)
	case *btf.Enum:
		for _, v := range u.Values {
			if v.Name == text {
				return putInt(dst, new(big.Int).SetUint64(v.Value))
			}
		}
		return encodeInt(dst, "enum "+u.Name, u.Signed, text)
	case *btf.Float:
		return encodeFloat(dst, text)
	case *btf.Array:
		char, ok := btf.UnderlyingType(u.Type).(*btf.Int)
		if ok && char.Name == "char" && char.Size == 1 {
			if strings.IndexByte(text, 0) >= 0 {
				return errors.New("the text has a NUL in it")
			}
			if len(text)+1 > len(dst) {
				return fmt.Errorf("the text takes %d bytes with its NUL, and char[%d] has room for %d", len(text)+1, len(dst), len(dst))
			}
			copy(dst, text+"\x00")
			return nil
		}
	}
	return fmt.Errorf("a value of type %s cannot be given on the command line", typeName(t))
}

func encodeBool(dst []byte, text string) error {
	switch text {
	case "true", "1":
		return putInt(dst, big.NewInt(1))
	case "false", "0":
		return putInt(dst, new(big.Int))
	}
	return fmt.Errorf("`%s` is neither true nor false", text)
}

func encodeInt(dst []byte, name string, signed bool, text string) error {
	digits := strings.TrimPrefix(text, "+")
	if signed && digits == text {
		digits = strings.TrimPrefix(text, "-")
	}
	n, ok := new(big.Int), digits != "" && len(digits) <= 64
	for _, c := range []byte(digits) {
		ok = ok && c >= '0' && c <= '9'
	}
	if ok {
		_, ok = n.SetString(text, 10)
	}
	bits := uint(len(dst)) * 8
	low, high := new(big.Int), new(big.Int).Lsh(big.NewInt(1), bits)
	if signed {
		high.Rsh(high, 1)
		low.Neg(high)
	}
	if !ok || n.Cmp(low) < 0 || n.Cmp(high) >= 0 {
		return fmt.Errorf("`%s` is no decimal number from %s to %s, which %s holds", text, low, high.Sub(high, big.NewInt(1)), name)
	}
	return putInt(dst, n)
}

// putInt writes n in the order of this machine, two's complement.
func putInt(dst []byte, n *big.Int) error {
	mod := new(big.Int).Lsh(big.NewInt(1), uint(len(dst))*8)
	n.Mod(n, mod).FillBytes(dst)
	if littleEndian {
		slices.Reverse(dst)
	}
	return nil
}

func encodeFloat(dst []byte, text string) error {
	bits := len(dst) * 8
	f, err := strconv.ParseFloat(text, bits)
	// An infinity that was not asked for is a number out of range, which
	// Rust's parser, and so upstream, takes for the infinity.
	if err != nil && !errors.Is(err, strconv.ErrRange) || strings.ContainsAny(text, "xXpP_") {
		return fmt.Errorf("`%s` is no decimal number", text)
	}
	switch bits {
	case 32:
		binary.NativeEndian.PutUint32(dst, math.Float32bits(float32(f)))
	case 64:
		binary.NativeEndian.PutUint64(dst, math.Float64bits(f))
	default:
		return fmt.Errorf("a floating point number of %d bytes cannot be given on the command line", len(dst))
	}
	return nil
}
