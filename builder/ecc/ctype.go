// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// maxTypeChain bounds how many pointers, arrays and qualifiers may enclose a
// type. BTF is untrusted and may hold a cycle.
const maxTypeChain = 256

var errTypeTooDeep = errors.New("type nests too deeply")

// A cPrinter spells types as libbpf's btf_dump does for a declaration without a
// name, which is what package.json holds. Anonymous structs, unions and enums
// are spelled "struct {...}". Type tags are left out: they are no C type.
type cPrinter struct {
	strings.Builder
	// dropQualifiers leaves out const, volatile and restrict at every level.
	dropQualifiers bool
	depth          int
}

// spellVariable returns the type of a global variable: without qualifiers.
func spellVariable(t btf.Type) (string, error) {
	p := cPrinter{dropQualifiers: true}
	if err := p.declare(t, ""); err != nil {
		return "", err
	}
	return p.String(), nil
}

// spellMember returns the type of a struct member. What is itself a struct, a
// union or an enum has a word of its own instead of its name.
func spellMember(t btf.Type) (string, error) {
	switch skipTypeTags(t).(type) {
	case *btf.Struct, *btf.Union:
		return "composite", nil
	case *btf.Enum:
		return "enum", nil
	}
	var p cPrinter
	if err := p.declare(t, ""); err != nil {
		return "", err
	}
	return p.String(), nil
}

func skipTypeTags(t btf.Type) btf.Type {
	for range maxTypeChain {
		tag, ok := t.(*btf.TypeTag)
		if !ok {
			return t
		}
		t = tag.Type
	}
	return t
}

// declare writes the declaration of name with type t.
func (p *cPrinter) declare(t btf.Type, name string) error {
	if p.depth++; p.depth > maxTypeChain {
		return errTypeTooDeep
	}
	defer func() { p.depth-- }()

	// The chain goes from the declared thing to the base type.
	var chain []btf.Type
	for {
		if len(chain) >= maxTypeChain {
			return errTypeTooDeep
		}
		var next btf.Type
		qualifier := false
		switch v := t.(type) {
		case *btf.Pointer:
			next = v.Target
		case *btf.Array:
			next = v.Type
		case *btf.FuncProto:
			next = v.Return
		case *btf.Const:
			next, qualifier = v.Type, true
		case *btf.Volatile:
			next, qualifier = v.Type, true
		case *btf.Restrict:
			next, qualifier = v.Type, true
		case *btf.TypeTag:
			t = v.Type
			chain = append(chain, nil) // counts against the bound
			continue
		}
		if !qualifier || !p.dropQualifiers {
			chain = append(chain, t)
		}
		if next == nil {
			break
		}
		t = next
	}
	compact := chain[:0]
	for _, t := range chain {
		if t != nil {
			compact = append(compact, t)
		}
	}
	return p.emit(compact, name)
}

// emit writes the chain from its base type outwards.
func (p *cPrinter) emit(chain []btf.Type, name string) error {
	afterPointer := true
	for len(chain) > 0 {
		last := len(chain) - 1
		t := chain[last]
		chain = chain[:last]
		switch t := t.(type) {
		case *btf.Pointer:
			if !afterPointer {
				p.WriteByte(' ')
			}
			p.WriteByte('*')
		case *btf.Const:
			p.WriteString(" const")
		case *btf.Volatile:
			p.WriteString(" volatile")
		case *btf.Restrict:
			p.WriteString(" restrict")
		case *btf.Array:
			return p.emitArray(t, chain, name, afterPointer)
		case *btf.FuncProto:
			return p.emitFunction(t, chain, name, afterPointer)
		default:
			// Qualifiers of the base type stand before it, the inner first.
			for len(chain) > 0 {
				word := qualifierOf(chain[len(chain)-1])
				if word == "" {
					break
				}
				p.WriteString(word)
				p.WriteByte(' ')
				chain = chain[:len(chain)-1]
			}
			if err := p.emitBase(t); err != nil {
				return err
			}
		}
		_, afterPointer = t.(*btf.Pointer)
	}
	p.emitName(name, afterPointer)
	return nil
}

func qualifierOf(t btf.Type) string {
	switch t.(type) {
	case *btf.Const:
		return "const"
	case *btf.Volatile:
		return "volatile"
	case *btf.Restrict:
		return "restrict"
	}
	return ""
}

func (p *cPrinter) emitName(name string, afterPointer bool) {
	if name != "" && !afterPointer {
		p.WriteByte(' ')
	}
	p.WriteString(name)
}

// dropQualifiersOf removes the qualifiers of an array or a function, which say
// nothing in C.
func dropQualifiersOf(chain []btf.Type) []btf.Type {
	for len(chain) > 0 && qualifierOf(chain[len(chain)-1]) != "" {
		chain = chain[:len(chain)-1]
	}
	return chain
}

func (p *cPrinter) emitArray(a *btf.Array, chain []btf.Type, name string, afterPointer bool) error {
	chain = dropQualifiersOf(chain)
	if len(chain) == 0 {
		p.emitName(name, afterPointer)
		fmt.Fprintf(p, "[%d]", a.Nelems)
		return nil
	}
	if name != "" && !afterPointer {
		p.WriteByte(' ')
	}
	_, nested := chain[len(chain)-1].(*btf.Array)
	if !nested {
		p.WriteByte('(')
	}
	if err := p.emit(chain, name); err != nil {
		return err
	}
	if !nested {
		p.WriteByte(')')
	}
	fmt.Fprintf(p, "[%d]", a.Nelems)
	return nil
}

func (p *cPrinter) emitFunction(f *btf.FuncProto, chain []btf.Type, name string, afterPointer bool) error {
	chain = dropQualifiersOf(chain)
	if len(chain) > 0 {
		p.WriteString(" (")
		if err := p.emit(chain, name); err != nil {
			return err
		}
		p.WriteByte(')')
	} else {
		p.emitName(name, afterPointer)
	}
	p.WriteByte('(')
	for i, param := range f.Params {
		_, void := param.Type.(*btf.Void)
		if void && len(f.Params) == 1 {
			p.WriteString("void")
			break
		}
		if i > 0 {
			p.WriteString(", ")
		}
		if void && i == len(f.Params)-1 {
			p.WriteString("...")
			break
		}
		if err := p.declare(param.Type, param.Name); err != nil {
			return err
		}
	}
	p.WriteByte(')')
	return nil
}

func (p *cPrinter) emitBase(t btf.Type) error {
	switch t := t.(type) {
	case *btf.Void:
		p.WriteString("void")
	case *btf.Int, *btf.Float, *btf.Typedef:
		p.WriteString(t.TypeName())
	case *btf.Struct:
		p.emitTag("struct", t.Name)
	case *btf.Union:
		p.emitTag("union", t.Name)
	case *btf.Enum:
		p.emitTag("enum", t.Name)
	case *btf.Fwd:
		p.emitTag(t.Kind.String(), t.Name)
	default:
		return fmt.Errorf("%v is not the type of a variable", t)
	}
	return nil
}

func (p *cPrinter) emitTag(keyword, name string) {
	p.WriteString(keyword)
	if name == "" {
		p.WriteString(" {...}")
		return
	}
	p.WriteByte(' ')
	p.WriteString(name)
}

// alignOf returns the alignment of t in bytes as libbpf computes it: a struct
// with a misplaced member, or a size that is no multiple of its alignment, is
// packed.
func alignOf(t btf.Type) int { return alignAt(t, 0) }

func alignAt(t btf.Type, depth int) int {
	if depth > maxTypeChain {
		return 1
	}
	depth++
	switch t := t.(type) {
	case *btf.Int:
		return min(8, max(1, int(t.Size)))
	case *btf.Float:
		return min(8, max(1, int(t.Size)))
	case *btf.Enum:
		return min(8, max(1, int(t.Size)))
	case *btf.Pointer:
		return 8
	case *btf.Typedef:
		return alignAt(t.Type, depth)
	case *btf.Const:
		return alignAt(t.Type, depth)
	case *btf.Volatile:
		return alignAt(t.Type, depth)
	case *btf.Restrict:
		return alignAt(t.Type, depth)
	case *btf.TypeTag:
		return alignAt(t.Type, depth)
	case *btf.Array:
		return alignAt(t.Type, depth)
	case *btf.Struct:
		return alignOfMembers(t.Members, t.Size, depth)
	case *btf.Union:
		return alignOfMembers(t.Members, t.Size, depth)
	}
	return 1
}

func alignOfMembers(members []btf.Member, size uint32, depth int) int {
	largest := 1
	for _, m := range members {
		align := alignAt(m.Type, depth)
		largest = max(largest, align)
		if m.BitfieldSize == 0 && uint32(m.Offset)%(8*uint32(align)) != 0 {
			return 1
		}
	}
	if size%uint32(largest) != 0 {
		return 1
	}
	return largest
}
