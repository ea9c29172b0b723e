// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// A stackFormat is where in an event of one layout the parts of a stack are.
type stackFormat struct {
	layout         *layout
	withSymbols    bool
	pid, cpu, comm *op
	// kernelSize and userSize are in bytes, kernel and user of opArray.
	kernelSize, userSize, kernel, user *op
	// members are those of the JSON object, in the order of their names.
	members []stackMember
}

// A stackMember is a member of the JSON object: the value of a column, or one
// of the stacks where it has none.
type stackMember struct {
	key    string
	column *column
	user   bool
}

// maxFrames bounds a stack whose length lies beyond its array, and is filled up.
const maxFrames = 4096

// planStacks finds the parts of a stack in the events of a map, if the package
// says that they are stacks.
func planStacks(m *manifest.MapMeta, l *layout) (*stackFormat, error) {
	s, err := m.StackTrace()
	if s == nil || err != nil {
		return nil, err
	}
	f := &stackFormat{layout: l, withSymbols: s.WithSymbols}
	parts := []struct {
		name   string // in the spec
		member string // in the event
		op     **op
		what   string
		is     func(*op) bool
	}{
		{"pid", s.PID, &f.pid, "an integer", isInteger},
		{"cpu_id", s.CPU, &f.cpu, "an integer", isInteger},
		{"comm", s.Comm, &f.comm, "an array of char", func(o *op) bool { return o.kind == opChars }},
		{"kstack_sz", s.KernelSize, &f.kernelSize, "an integer", isInteger},
		{"ustack_sz", s.UserSize, &f.userSize, "an integer", isInteger},
		{"kstack", s.Kernel, &f.kernel, "an array of integers of 64 bits", isAddresses},
		{"ustack", s.User, &f.user, "an array of integers of 64 bits", isAddresses},
	}
	used := map[string]*column{}
	for _, part := range parts {
		i := slices.IndexFunc(l.columns, func(c column) bool { return c.name == part.member })
		if i < 0 {
			return nil, manifest.WithKind(manifest.KindFailure,
				fmt.Errorf("stack_trace: %s has no member %s, which the field %s is read from", l.what, part.member, part.name),
				fmt.Sprintf(`Name another member: /// @intepreter {"stack_trace": {"field_map": {%q: "MEMBER"}}}`, part.name))
		}
		c := &l.columns[i]
		if len(c.ops) != 1 || len(c.ops[0].literal) > 0 && c.ops[0].kind != opArray || !part.is(&c.ops[0]) {
			return nil, fmt.Errorf("stack_trace: member %s of %s, which the field %s is read from, is not %s", part.member, l.what, part.name, part.what)
		}
		*part.op = &c.ops[0]
		used[part.member] = c
	}
	f.members = []stackMember{
		{key: "comm", column: used[s.Comm]}, {key: "cpu_id", column: used[s.CPU]}, {key: "pid", column: used[s.PID]},
		{key: "kernel"}, {key: "user", user: true},
	}
	for i := range l.columns {
		c := &l.columns[i]
		// What has another name is kept as it is, once.
		taken := func(m stackMember) bool { return m.key == c.name }
		if used[c.name] == nil && !slices.ContainsFunc(f.members, taken) {
			f.members = append(f.members, stackMember{key: c.name, column: c})
		}
	}
	slices.SortFunc(f.members, func(a, b stackMember) int { return strings.Compare(a.key, b.key) })
	return f, nil
}

func isInteger(o *op) bool { return o.kind >= opInt8 && o.kind <= opUint64 && o.kind != opInt128 }

func isAddresses(o *op) bool {
	return o.kind == opArray && o.stride == 8 && len(o.body) == 1 && len(o.body[0].literal) == 0 &&
		(o.body[0].kind == opUint64 || o.body[0].kind == opInt64)
}

// integer reads the integer of o.
func (o *op) integer(event []byte) int64 {
	d := event[o.offset:]
	ne := binary.NativeEndian
	switch o.kind {
	case opInt8:
		return int64(int8(d[0]))
	case opInt16:
		return int64(int16(ne.Uint16(d)))
	case opInt32:
		return int64(int32(ne.Uint32(d)))
	case opUint8:
		return int64(d[0])
	case opUint16:
		return int64(ne.Uint16(d))
	case opUint32:
		return int64(ne.Uint32(d))
	default:
		return int64(ne.Uint64(d))
	}
}

// address reads element i of the array o, and 0 beyond its end.
func (o *op) address(event []byte, i int) uint64 {
	if i >= int(o.size) {
		return 0
	}
	return binary.NativeEndian.Uint64(event[int(o.offset)+8*i:])
}

// frames returns how many addresses a stack has whose length is that of size.
func frames(size *op, event []byte) int {
	return int(min(max(size.integer(event)/8, 0), maxFrames))
}

// A stackPrinter writes events as stacks: as blocks of text, or as JSON lines.
type stackPrinter struct {
	*stackFormat
	json bool
	text quoting
	// symbols is nil where addresses stay numbers.
	symbols resolver
	// places are those of the event that is printed.
	kernelPlaces, userPlaces []place
}

// event appends one event, and nothing for one without any stack.
func (p *stackPrinter) event(dst, event []byte) []byte {
	kernel, user := frames(p.kernelSize, event), frames(p.userSize, event)
	if kernel == 0 && user == 0 {
		return dst
	}
	comm := untilNUL(event[p.comm.offset:][:p.comm.size])
	inKernel, inProcess := unknown, unknown
	if p.symbols != nil {
		inKernel = p.symbols.kernel
		if user > 0 {
			inProcess = p.symbols.process(uint64(p.pid.integer(event)), comm)
		}
	}
	// The process first: it may end any moment.
	p.userPlaces = p.user.places(p.userPlaces[:0], event, user, inProcess)
	p.kernelPlaces = p.kernel.places(p.kernelPlaces[:0], event, kernel, inKernel)
	if p.json {
		return p.appendJSON(dst, event)
	}
	dst = append(dst, "COMM: "...)
	dst = appendText(dst, comm, p.text)
	dst = append(dst, " (pid="...)
	dst = appendOps(dst, []op{*p.pid}, event, p.text)
	dst = append(dst, ") @ CPU "...)
	dst = appendOps(dst, []op{*p.cpu}, event, p.text)
	dst = append(dst, '\n')
	dst = p.appendStack(dst, "Kernel:\n", "No Kernel Stack\n", p.kernelPlaces)
	dst = p.appendStack(dst, "Userspace:\n", "No Userspace Stack\n", p.userPlaces)
	return append(dst, '\n')
}

func unknown(uint64) place { return place{} }

// places appends what is known of the first n addresses of the array o.
func (o *op) places(dst []place, event []byte, n int, find func(uint64) place) []place {
	for i := range n {
		address := o.address(event, i)
		at := find(address)
		at.address = address
		dst = append(dst, at)
	}
	return dst
}

func (p *stackPrinter) appendStack(dst []byte, head, none string, stack []place) []byte {
	if len(stack) == 0 {
		return append(dst, none...)
	}
	dst = append(dst, head...)
	for i, at := range stack {
		dst = append(dst, "  "...)
		dst = strconv.AppendInt(dst, int64(i), 10)
		dst = append(dst, " [<"...)
		dst = appendHex(dst, at.address, 16)
		dst = append(dst, ">]"...)
		if at.symbol != "" {
			dst = append(dst, ' ')
			dst = appendText(dst, []byte(at.symbol), p.text)
			dst = append(dst, "+0x"...)
			dst = appendHex(dst, at.offset, 1)
			if at.module != "" && !at.file {
				dst = append(dst, " ["...)
				dst = appendText(dst, []byte(at.module), p.text)
				dst = append(dst, ']')
			}
		}
		dst = append(dst, '\n')
	}
	return dst
}

// appendHex appends n with at least the given number of digits.
func appendHex(dst []byte, n uint64, digits int) []byte {
	var b [16]byte
	text := strconv.AppendUint(b[:0], n, 16)
	for i := len(text); i < digits; i++ {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}

func (p *stackPrinter) appendJSON(dst, event []byte) []byte {
	for i, m := range p.members {
		if i == 0 {
			dst = append(dst, '{')
		} else {
			dst = append(dst, ',')
		}
		dst = manifest.AppendJSONString(dst, m.key)
		dst = append(dst, ':')
		switch {
		case m.column != nil:
			dst = appendOps(dst, m.column.ops, event, p.text.json())
			dst = append(dst, m.column.end...)
		case m.user:
			dst = p.appendFrames(dst, p.userPlaces)
		default:
			dst = p.appendFrames(dst, p.kernelPlaces)
		}
	}
	return append(dst, "}\n"...)
}

func (p *stackPrinter) appendFrames(dst []byte, stack []place) []byte {
	dst = append(dst, '[')
	for i, at := range stack {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"address":"0x`...)
		dst = appendHex(dst, at.address, 1)
		dst = append(dst, '"')
		if at.buildID != "" {
			dst = append(dst, `,"buildId":"`...)
			dst = append(dst, at.buildID...)
			dst = append(dst, '"')
		}
		if at.file {
			dst = append(dst, `,"fileOffset":`...)
			dst = strconv.AppendUint(dst, at.fileOffset, 10)
		}
		if at.module != "" {
			dst = append(dst, `,"module":`...)
			dst = appendText(dst, []byte(at.module), p.text.json())
		}
		if at.symbol != "" {
			dst = append(dst, `,"offset":`...)
			dst = strconv.AppendUint(dst, at.offset, 10)
			dst = append(dst, `,"symbol":`...)
			dst = appendText(dst, []byte(at.symbol), p.text.json())
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}
