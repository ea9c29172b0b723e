// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// A layout is an event type made ready for printing: its BTF is walked once,
// events are then printed without allocating.
type layout struct {
	// what names the type in messages, such as "struct event".
	what string
	// need is how many bytes an event must have.
	need    int
	columns []column
	object  []op
	end     []byte
}

// A column is one member of the event in text mode.
type column struct {
	name string
	ops  []op
	end  []byte
}

type opKind uint8

const (
	opNothing opKind = iota // only the literal in front
	opBool
	opInt8
	opInt16
	opInt32
	opInt64
	opInt128
	opUint8
	opUint16
	opUint32
	opUint64
	opUint128
	opFloat32
	opFloat64
	opChars
	opEnum
	opBits
	opArray
)

// An op writes a literal, and then the value at an offset of the event.
type op struct {
	literal []byte
	kind    opKind
	offset  uint32
	// size is the number of bytes of opChars and opEnum, of elements of
	// opArray, of bits of opBits.
	size uint32
	// stride is the size in bytes of an element of opArray.
	stride uint32
	body   []op
	enum   *enumTable
	// Of opBits: the first bit within the byte at offset, and what it holds.
	firstBit uint8
	signed   bool
	boolean  bool
}

// enumTable has the names of an enum's values.
type enumTable struct {
	values []int64
	names  []string
	// unsigned is for values of eight bytes; the narrower ones are signed.
	unsigned bool
}

func (t *enumTable) find(v int64) (string, bool) {
	i, ok := slices.BinarySearch(t.values, v)
	if !ok {
		return "", false
	}
	return t.names[i], true
}

const (
	// maxNesting bounds the depth of a type, maxCost the literals and values
	// that are written for one event: types come from the package, and a few
	// nested arrays of nothing would print for ever.
	maxNesting = 32
	maxCost    = 1 << 20
	maxOps     = 1 << 16
)

var errTypeTooLarge = errors.New("the type has too many members to be printed")

// newLayout makes the layout of the struct t with the given members, which are
// those of the package's description: members of another name are left out. An
// anonymous struct or union stands for its own members.
func newLayout(t *btf.Struct, members []manifest.Member) (*layout, error) {
	if len(t.Members) != len(members) {
		return nil, fmt.Errorf("struct %s has %d members in the object's BTF, but %d in the package's export_types", t.Name, len(t.Members), len(members))
	}
	var shown []field
	for i, m := range t.Members {
		if m.Name != "" && m.Name != members[i].Name { //nolint:gosec // There are as many of both: see above.
			continue
		}
		fields, err := flatten(nil, m, 0, 0)
		if err != nil {
			return nil, fmt.Errorf("struct %s: %w", t.Name, err)
		}
		shown = append(shown, fields...)
	}
	return layoutOf("struct "+t.Name, uint64(t.Size), shown)
}

// newTypeLayout makes the layout of any type: the members of a struct or union,
// else one column with the given label.
func newTypeLayout(t btf.Type, label string) (*layout, error) {
	size, err := btf.Sizeof(t)
	if err != nil {
		return nil, err
	}
	what := "type " + typeName(t)
	shown := []field{{name: printable(label), typ: t}}
	if members, kind, ok := composite(btf.UnderlyingType(t)); ok {
		what = kind[0] + " " + kind[1]
		shown = nil
		for _, m := range members {
			if shown, err = flatten(shown, m, 0, 0); err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
		}
	}
	return layoutOf(what, uint64(size), shown)
}

// layoutOf makes the layout of fields within size bytes.
func layoutOf(what string, size uint64, shown []field) (*layout, error) {
	l := &layout{what: what}
	// The bounds are for all columns together.
	total, cost := new(int), uint64(0)
	for _, f := range shown {
		c := compiler{region: size, total: total, cost: cost}
		if err := c.field(f, 0, 0); err != nil {
			return nil, fmt.Errorf("%s: member %s: %w", what, f.name, err)
		}
		cost = c.cost
		l.columns = append(l.columns, column{name: f.name, ops: c.ops, end: c.literal})
		l.need = max(l.need, int(c.need))
	}
	c := compiler{region: size}
	if err := c.object(shown, nil, 0, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	l.object, l.end = c.ops, c.literal
	return l, nil
}

// A field is a member with its offset in bits from where the value starts.
type field struct {
	name   string
	typ    btf.Type
	offset uint64
	bits   uint64 // width of a bit field, else 0
}

// flatten appends m, or its members where it is an anonymous struct or union.
func flatten(dst []field, m btf.Member, base uint64, depth int) ([]field, error) {
	offset := base + uint64(m.Offset)
	if m.Name != "" {
		return append(dst, field{printable(m.Name), m.Type, offset, uint64(m.BitfieldSize)}), nil
	}
	if depth > maxNesting {
		return nil, errTypeTooLarge
	}
	inner, _, ok := composite(btf.UnderlyingType(m.Type))
	if !ok {
		return dst, nil
	}
	var err error
	for _, m := range inner {
		if dst, err = flatten(dst, m, offset, depth+1); err != nil {
			return nil, err
		}
		if len(dst) > maxOps {
			return nil, errTypeTooLarge
		}
	}
	return dst, nil
}

// composite returns the members of a struct or union and the two values that
// upstream prints of its type.
func composite(t btf.Type) (members []btf.Member, kind [2]string, ok bool) {
	switch t := t.(type) {
	case *btf.Struct:
		return t.Members, [2]string{"struct", printable(t.Name)}, true
	case *btf.Union:
		return t.Members, [2]string{"union", printable(t.Name)}, true
	}
	return nil, kind, false
}

// A compiler collects the ops of one value, an event or an array's element.
type compiler struct {
	// region is the size in bytes of what the ops may read.
	region  uint64
	need    uint64
	ops     []op
	literal []byte // not yet in an op
	cost    uint64
	total   *int // ops of all compilers of one layout
}

func (c *compiler) write(s string) { c.literal = append(c.literal, s...) }

func (c *compiler) emit(o op, offset, size uint64) error {
	if offset+size > c.region {
		return fmt.Errorf("the value at byte %d of %d bytes lies outside of its type of %d bytes", offset, size, c.region)
	}
	if c.total == nil {
		c.total = new(int)
	}
	if *c.total++; *c.total > maxOps {
		return errTypeTooLarge
	}
	c.need = max(c.need, offset+size)
	o.literal, o.offset = c.literal, uint32(offset)
	c.cost += 1 + uint64(len(c.literal))
	if c.cost > maxCost {
		return errTypeTooLarge
	}
	c.literal = nil
	c.ops = append(c.ops, o)
	return nil
}

// object writes members as a JSON object with its keys sorted bytewise, plus
// the pairs of extra.
func (c *compiler) object(members []field, extra [][2]string, base uint64, depth int) error {
	type entry struct {
		key  string
		text string // of extra
		field
	}
	var entries []entry
	for _, e := range extra {
		entries = append(entries, entry{key: e[0], text: e[1]})
	}
	for _, m := range members {
		entries = append(entries, entry{key: m.name, field: m})
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	c.write("{")
	first := true
	for i, e := range entries {
		if i+1 < len(entries) && entries[i+1].key == e.key {
			continue // the last one wins, as upstream has it
		}
		if !first {
			c.write(",")
		}
		first = false
		c.literal = manifest.AppendJSONString(c.literal, e.key)
		c.write(":")
		if e.typ == nil {
			c.literal = manifest.AppendJSONString(c.literal, e.text)
			continue
		}
		if err := c.field(e.field, base, depth); err != nil {
			return fmt.Errorf("member %s: %w", e.key, err)
		}
	}
	c.write("}")
	return nil
}

func (c *compiler) field(f field, base uint64, depth int) error {
	if f.bits != 0 {
		return c.bitField(f, base)
	}
	if f.offset%8 != 0 {
		return fmt.Errorf("starts at bit %d, within a byte", f.offset)
	}
	return c.value(f.typ, base+f.offset/8, depth)
}

func (c *compiler) bitField(f field, base uint64) error {
	if f.bits > 64 {
		return fmt.Errorf("bit field of %d bits: at most 64 can be printed", f.bits)
	}
	o := op{kind: opBits, size: uint32(f.bits), firstBit: uint8(f.offset % 8)}
	switch t := btf.UnderlyingType(f.typ).(type) {
	case *btf.Int:
		o.signed = t.Encoding == btf.Signed
		o.boolean = t.Encoding == btf.Bool
	case *btf.Enum:
		o.enum = newEnumTable(t, f.bits)
		o.signed = !o.enum.unsigned
	default:
		return fmt.Errorf("bit field of type %s cannot be printed", typeName(f.typ))
	}
	first := base + f.offset/8
	return c.emit(o, first, (f.offset%8+f.bits+7)/8)
}

var (
	signedOps   = map[uint32]opKind{1: opInt8, 2: opInt16, 4: opInt32, 8: opInt64, 16: opInt128}
	unsignedOps = map[uint32]opKind{1: opUint8, 2: opUint16, 4: opUint32, 8: opUint64, 16: opUint128}
)

func (c *compiler) value(t btf.Type, offset uint64, depth int) error {
	if depth > maxNesting {
		return errTypeTooLarge
	}
	under := btf.UnderlyingType(t)
	if members, kind, ok := composite(under); ok {
		var fields []field
		for _, m := range members {
			var err error
			if fields, err = flatten(fields, m, 0, depth); err != nil {
				return err
			}
		}
		size, err := btf.Sizeof(under)
		if err != nil {
			return err
		}
		c.need = max(c.need, offset+uint64(size))
		return c.object(fields, [][2]string{{"__EUNOMIA_TYPE", kind[0]}, {"__EUNOMIA_TYPE_NAME", kind[1]}}, offset, depth+1)
	}
	switch under := under.(type) {
	case *btf.Int:
		kind := unsignedOps[under.Size]
		switch under.Encoding {
		case btf.Bool:
			kind = opBool
		case btf.Signed:
			kind = signedOps[under.Size]
		}
		if kind != opNothing {
			return c.emit(op{kind: kind}, offset, uint64(under.Size))
		}
	case *btf.Pointer:
		return c.emit(op{kind: opUint64}, offset, 8)
	case *btf.Float:
		switch under.Size {
		case 4:
			return c.emit(op{kind: opFloat32}, offset, 4)
		case 8:
			return c.emit(op{kind: opFloat64}, offset, 8)
		}
	case *btf.Enum:
		switch under.Size {
		case 1, 2, 4, 8:
			return c.emit(op{kind: opEnum, size: under.Size, enum: newEnumTable(under, uint64(under.Size)*8)}, offset, uint64(under.Size))
		}
	case *btf.Array:
		return c.array(under, offset, depth)
	}
	return fmt.Errorf("a value of type %s cannot be printed", typeName(t))
}

func (c *compiler) array(t *btf.Array, offset uint64, depth int) error {
	// Only an array of plain char is text; a qualified or renamed char is not.
	if char, ok := t.Type.(*btf.Int); ok && char.Name == "char" && char.Size == 1 {
		return c.emit(op{kind: opChars, size: t.Nelems}, offset, uint64(t.Nelems))
	}
	size, err := btf.Sizeof(t.Type)
	if err != nil {
		return fmt.Errorf("array of %s: %w", typeName(t.Type), err)
	}
	if c.total == nil {
		c.total = new(int)
	}
	body := compiler{region: uint64(size), total: c.total}
	if err := body.value(t.Type, 0, depth+1); err != nil {
		return err
	}
	c.write("[")
	if len(body.literal) > 0 {
		if err := body.emit(op{kind: opNothing}, 0, 0); err != nil {
			return err
		}
	}
	c.cost += (body.cost + 1) * uint64(t.Nelems)
	if c.cost > maxCost {
		return errTypeTooLarge
	}
	o := op{kind: opArray, size: t.Nelems, stride: uint32(size), body: body.ops}
	if err := c.emit(o, offset, uint64(size)*uint64(t.Nelems)); err != nil {
		return err
	}
	c.write("]")
	return nil
}

// newEnumTable brings the enumerators to the width in bits with which values
// are read. Values of up to four bytes are signed whatever the enum says, as
// upstream has it.
func newEnumTable(t *btf.Enum, width uint64) *enumTable {
	type enumerator struct {
		value int64
		name  string
	}
	list := make([]enumerator, len(t.Values))
	shift := 64 - min(width, 64)
	table := &enumTable{unsigned: t.Size == 8 && !t.Signed || width < uint64(t.Size)*8 && !t.Signed}
	for i, v := range t.Values {
		value := int64(v.Value<<shift) >> shift
		if table.unsigned {
			value = int64(v.Value << shift >> shift)
		}
		list[i] = enumerator{value, printable(v.Name)}
	}
	slices.SortStableFunc(list, func(a, b enumerator) int {
		switch {
		case a.value < b.value:
			return -1
		case a.value > b.value:
			return 1
		}
		return 0
	})
	// Of equal values the first name stands.
	list = slices.CompactFunc(list, func(a, b enumerator) bool { return a.value == b.value })
	for _, e := range list {
		table.values = append(table.values, e.value)
		table.names = append(table.names, e.name)
	}
	return table
}

// printable returns a name of the package with what no C name holds replaced,
// so that it can be written without looking at it again.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, name)
}

func typeName(t btf.Type) string {
	if name := t.TypeName(); name != "" {
		return strconv.Quote(name)
	}
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", t), "*btf."))
}

// appendJSON appends the event as one JSON object. data must have need bytes.
func (l *layout) appendJSON(dst, data []byte, q quoting) []byte {
	dst = appendOps(dst, l.object, data, q.json())
	return append(dst, l.end...)
}

// appendColumn appends the value of column i in the way of text mode: what is
// a string in JSON stands without quotes.
func (l *layout) appendColumn(dst []byte, i int, data []byte, text quoting) []byte {
	col := &l.columns[i]
	if len(col.ops) == 1 && len(col.ops[0].literal) == 0 {
		o := &col.ops[0]
		d := data[o.offset:]
		switch o.kind {
		case opChars:
			return appendText(dst, untilNUL(d[:o.size]), text)
		case opInt128, opUint128:
			return appendWide(dst, d, o.kind == opInt128)
		case opEnum:
			return appendEnum(dst, o.enum, readSigned(d, o.size), text)
		case opBits:
			if o.enum != nil {
				return appendEnum(dst, o.enum, o.bits(d), text)
			}
		}
	}
	dst = appendOps(dst, col.ops, data, text.json())
	return append(dst, col.end...)
}

func appendOps(dst []byte, ops []op, data []byte, q quoting) []byte {
	ne := binary.NativeEndian
	for i := range ops {
		o := &ops[i]
		dst = append(dst, o.literal...)
		d := data[o.offset:]
		switch o.kind {
		case opNothing:
		case opBool:
			dst = strconv.AppendBool(dst, d[0] != 0)
		case opInt8:
			dst = strconv.AppendInt(dst, int64(int8(d[0])), 10)
		case opInt16:
			dst = strconv.AppendInt(dst, int64(int16(ne.Uint16(d))), 10)
		case opInt32:
			dst = strconv.AppendInt(dst, int64(int32(ne.Uint32(d))), 10)
		case opInt64:
			dst = strconv.AppendInt(dst, int64(ne.Uint64(d)), 10)
		case opUint8:
			dst = strconv.AppendUint(dst, uint64(d[0]), 10)
		case opUint16:
			dst = strconv.AppendUint(dst, uint64(ne.Uint16(d)), 10)
		case opUint32:
			dst = strconv.AppendUint(dst, uint64(ne.Uint32(d)), 10)
		case opUint64:
			dst = strconv.AppendUint(dst, ne.Uint64(d), 10)
		case opInt128, opUint128:
			dst = append(dst, '"')
			dst = appendWide(dst, d, o.kind == opInt128)
			dst = append(dst, '"')
		case opFloat32:
			dst = appendFloat(dst, float64(math.Float32frombits(ne.Uint32(d))))
		case opFloat64:
			dst = appendFloat(dst, math.Float64frombits(ne.Uint64(d)))
		case opChars:
			dst = appendText(dst, untilNUL(d[:o.size]), q)
		case opEnum:
			dst = appendEnum(dst, o.enum, readSigned(d, o.size), q)
		case opBits:
			v := o.bits(d)
			switch {
			case o.enum != nil:
				dst = appendEnum(dst, o.enum, v, q)
			case o.boolean:
				dst = strconv.AppendBool(dst, v != 0)
			case o.signed:
				dst = strconv.AppendInt(dst, v, 10)
			default:
				dst = strconv.AppendUint(dst, uint64(v), 10)
			}
		case opArray:
			for n := range o.size {
				if n > 0 {
					dst = append(dst, ',')
				}
				dst = appendOps(dst, o.body, d[n*o.stride:], q)
			}
		}
	}
	return dst
}

// bits returns the bit field that starts in the first byte of d.
func (o *op) bits(d []byte) int64 {
	var hi, lo uint64 // a field of 64 bits may lie in nine bytes
	n := (uint(o.firstBit) + uint(o.size) + 7) / 8
	var raw uint64
	if littleEndian {
		for i := range min(n, 8) {
			lo |= uint64(d[i]) << (8 * i)
		}
		if n == 9 {
			hi = uint64(d[8])
		}
		raw = lo>>o.firstBit | hi<<(64-o.firstBit)
	} else {
		for i := range n {
			hi = hi<<8 | lo>>56
			lo = lo<<8 | uint64(d[i])
		}
		shift := n*8 - uint(o.firstBit) - uint(o.size)
		raw = lo>>shift | hi<<(64-shift)
	}
	unused := 64 - o.size
	if o.signed {
		return int64(raw<<unused) >> unused
	}
	return int64(raw << unused >> unused)
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func readSigned(d []byte, size uint32) int64 {
	switch size {
	case 1:
		return int64(int8(d[0]))
	case 2:
		return int64(int16(binary.NativeEndian.Uint16(d)))
	case 4:
		return int64(int32(binary.NativeEndian.Uint32(d)))
	default:
		return int64(binary.NativeEndian.Uint64(d))
	}
}

func appendWide(dst, d []byte, signed bool) []byte {
	lo, hi := binary.NativeEndian.Uint64(d), binary.NativeEndian.Uint64(d[8:])
	if !littleEndian {
		lo, hi = hi, lo
	}
	return appendInt128(dst, hi, lo, signed)
}

func appendEnum(dst []byte, t *enumTable, v int64, q quoting) []byte {
	asJSON := q == q.json()
	if asJSON {
		dst = append(dst, '"')
	}
	if name, ok := t.find(v); ok {
		dst = append(dst, name...)
	} else {
		dst = append(dst, "<UNKNOWN_VARIANT>"...)
	}
	dst = append(dst, '(')
	if t.unsigned {
		dst = strconv.AppendUint(dst, uint64(v), 10)
	} else {
		dst = strconv.AppendInt(dst, v, 10)
	}
	dst = append(dst, ')')
	if asJSON {
		dst = append(dst, '"')
	}
	return dst
}
