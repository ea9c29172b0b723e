// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"errors"
	"fmt"
)

// The parts of LLVM's bitcode (llvm.org/docs/BitCodeFormat.html) that say which
// inline assembly a module holds. Numbers are those of llvm/Bitcode/
// LLVMBitCodes.h up to LLVM 22.
const (
	bitcodeMagic = 0xdec04342

	blockInfo      = 0
	blockModule    = 8
	blockConstants = 11
	blockFunction  = 12
	blockMetadata  = 15
	lastKnownBlock = 27

	moduleCodeAsm       = 4
	lastKnownModuleCode = 20

	constInlineAsmOld  = 18
	constInlineAsmOld2 = 23
	constInlineAsmOld3 = 28
	constInlineAsm     = 30
	lastKnownConstant  = 33

	metadataFile = 16
	// fileOperands are those of a file with its source: distinct, name, folder,
	// kind of checksum, checksum, source.
	fileOperands = 6

	maxBitcodeDepth = 32
)

var (
	errBitcode = errors.New("malformed bitcode")
	// errUnknownBitcode says that a newer LLVM wrote something that may be
	// assembly in a form that this reader does not know.
	errUnknownBitcode = errors.New("unknown bitcode")
)

// A module is what matters here of a program in LLVM's form.
type module struct {
	// assembly is the text of each piece of inline assembly: templates of asm
	// statements and assembly at file scope.
	assembly []string
	// bareFiles is how many files it describes without their text, which the
	// compiler would read.
	bareFiles int
}

// readBitcode fails when it cannot be certain to have seen all inline assembly.
func readBitcode(bitcode []byte) (*module, error) {
	r := &bitReader{data: bitcode, infos: map[uint64][]abbreviation{}}
	magic, err := r.fixed(32)
	if err != nil || magic != bitcodeMagic {
		return nil, fmt.Errorf("%w: no magic number", errBitcode)
	}
	// Modules, string and symbol tables follow one another.
	for r.pos+32 <= r.bits() {
		id, err := r.fixed(2)
		if err != nil {
			return nil, err
		}
		if id != abbrevEnterBlock {
			return nil, fmt.Errorf("%w: no block at top level", errBitcode)
		}
		if err := r.block(0); err != nil {
			return nil, err
		}
	}
	return &r.module, nil
}

// The abbreviation ids that every block has.
const (
	abbrevEndBlock = iota
	abbrevEnterBlock
	abbrevDefine
	abbrevUnabbreviated
	abbrevFirst
)

// The encodings of an abbreviation's operand.
const (
	encodingLiteral = iota
	encodingFixed
	encodingVBR
	encodingArray
	encodingChar6
	encodingBlob
)

type abbrevOp struct {
	encoding int
	value    uint64 // the literal, or the width in bits
}

type abbreviation []abbrevOp

type bitReader struct {
	data  []byte
	pos   uint64 // in bits
	infos map[uint64][]abbreviation
	module
}

func (r *bitReader) bits() uint64 { return uint64(len(r.data)) * 8 }

func (r *bitReader) fixed(width uint64) (uint64, error) {
	if width > 64 || r.pos+width > r.bits() {
		return 0, errBitcode
	}
	var v uint64
	for got := uint64(0); got < width; {
		offset := r.pos & 7
		take := min(8-offset, width-got)
		bits := uint64(r.data[r.pos>>3]>>offset) & (1<<take - 1)
		v |= bits << got
		got += take
		r.pos += take
	}
	return v, nil
}

func (r *bitReader) vbr(width uint64) (uint64, error) {
	if width < 2 || width > 32 {
		return 0, errBitcode
	}
	more := uint64(1) << (width - 1)
	var v uint64
	for shift := uint64(0); ; shift += width - 1 {
		chunk, err := r.fixed(width)
		if err != nil || shift > 63 {
			return 0, errBitcode
		}
		v |= (chunk & (more - 1)) << shift
		if chunk&more == 0 {
			return v, nil
		}
	}
}

func (r *bitReader) align() { r.pos = (r.pos + 31) &^ 31 }

// block reads a block behind its ENTER_SUBBLOCK id.
func (r *bitReader) block(depth int) error {
	if depth > maxBitcodeDepth {
		return errBitcode
	}
	id, err := r.vbr(8)
	if err != nil {
		return err
	}
	inner, err := r.vbr(4)
	if err != nil {
		return err
	}
	r.align()
	words, err := r.fixed(32)
	if err != nil {
		return err
	}
	end := r.pos + words*32
	if end > r.bits() {
		return errBitcode
	}
	switch id {
	case blockInfo, blockModule, blockConstants, blockFunction, blockMetadata:
	default:
		if id > lastKnownBlock {
			return fmt.Errorf("%w: block %d", errUnknownBitcode, id)
		}
		r.pos = end
		return nil
	}
	if err := r.records(id, inner, depth); err != nil {
		return err
	}
	if r.pos != end {
		return errBitcode
	}
	return nil
}

func (r *bitReader) records(block, width uint64, depth int) error {
	abbrevs := append([]abbreviation(nil), r.infos[block]...)
	describes := uint64(0) // the block that a BLOCKINFO block describes
	for {
		id, err := r.fixed(width)
		if err != nil {
			return err
		}
		switch id {
		case abbrevEndBlock:
			r.align()
			return nil
		case abbrevEnterBlock:
			if err := r.block(depth + 1); err != nil {
				return err
			}
		case abbrevDefine:
			a, err := r.define()
			if err != nil {
				return err
			}
			if block == blockInfo {
				r.infos[describes] = append(r.infos[describes], a)
			} else {
				abbrevs = append(abbrevs, a)
			}
		default:
			code, ops, err := r.record(id, abbrevs)
			if err != nil {
				return err
			}
			switch block {
			case blockInfo:
				if code == 1 && len(ops) == 1 { // SETBID
					describes = ops[0]
				}
			case blockModule:
				err = r.moduleRecord(code, ops)
			case blockConstants:
				err = r.constant(code, ops)
			case blockMetadata:
				if code == metadataFile && len(ops) != fileOperands {
					r.bareFiles++
				}
			}
			if err != nil {
				return err
			}
		}
	}
}

func (r *bitReader) define() (abbreviation, error) {
	n, err := r.vbr(5)
	if err != nil || n > 1024 {
		return nil, errBitcode
	}
	var a abbreviation
	for range n {
		literal, err := r.fixed(1)
		if err != nil {
			return nil, err
		}
		if literal == 1 {
			v, err := r.vbr(8)
			if err != nil {
				return nil, err
			}
			a = append(a, abbrevOp{encodingLiteral, v})
			continue
		}
		encoding, err := r.fixed(3)
		if err != nil {
			return nil, err
		}
		op := abbrevOp{encoding: int(encoding)}
		switch op.encoding {
		case encodingFixed, encodingVBR:
			if op.value, err = r.vbr(5); err != nil {
				return nil, err
			}
			if op.value == 0 { // stands for the value 0
				op = abbrevOp{encodingLiteral, 0}
			}
		case encodingArray, encodingChar6, encodingBlob:
		default:
			return nil, errBitcode
		}
		a = append(a, op)
	}
	return a, nil
}

func (r *bitReader) record(id uint64, abbrevs []abbreviation) (code uint64, ops []uint64, err error) {
	if id == abbrevUnabbreviated {
		if code, err = r.vbr(6); err != nil {
			return 0, nil, err
		}
		n, err := r.vbr(6)
		if err != nil || n > r.bits()-r.pos {
			return 0, nil, errBitcode
		}
		for range n {
			op, err := r.vbr(6)
			if err != nil {
				return 0, nil, err
			}
			ops = append(ops, op)
		}
		return code, ops, nil
	}
	if id-abbrevFirst >= uint64(len(abbrevs)) {
		return 0, nil, errBitcode
	}
	a := abbrevs[id-abbrevFirst]
	for i := 0; i < len(a); i++ {
		switch a[i].encoding {
		case encodingArray:
			if i+2 != len(a) {
				return 0, nil, errBitcode
			}
			n, err := r.vbr(6)
			if err != nil || n > r.bits()-r.pos || a[i+1].encoding == encodingLiteral {
				return 0, nil, errBitcode
			}
			for range n {
				op, err := r.scalar(a[i+1])
				if err != nil {
					return 0, nil, err
				}
				ops = append(ops, op)
			}
			i++
		case encodingBlob:
			n, err := r.vbr(6)
			if err != nil || n > uint64(len(r.data)) {
				return 0, nil, errBitcode
			}
			r.align()
			r.pos += n * 8
			r.align()
			if r.pos > r.bits() {
				return 0, nil, errBitcode
			}
		default:
			op, err := r.scalar(a[i])
			if err != nil {
				return 0, nil, err
			}
			ops = append(ops, op)
		}
	}
	if len(ops) == 0 {
		return 0, nil, errBitcode
	}
	return ops[0], ops[1:], nil
}

const char6 = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._"

func (r *bitReader) scalar(op abbrevOp) (uint64, error) {
	switch op.encoding {
	case encodingLiteral:
		return op.value, nil
	case encodingFixed:
		return r.fixed(op.value)
	case encodingVBR:
		return r.vbr(op.value)
	case encodingChar6:
		v, err := r.fixed(6)
		if err != nil {
			return 0, err
		}
		return uint64(char6[v]), nil
	}
	return 0, errBitcode
}

func (r *bitReader) moduleRecord(code uint64, ops []uint64) error {
	if code > lastKnownModuleCode {
		return fmt.Errorf("%w: module record %d", errUnknownBitcode, code)
	}
	if code == moduleCodeAsm {
		r.assembly = append(r.assembly, textOf(ops))
	}
	return nil
}

// constant takes the template out of an inline assembly: [type,] flags, length,
// template, length, constraints.
func (r *bitReader) constant(code uint64, ops []uint64) error {
	switch code {
	case constInlineAsm:
		if len(ops) < 1 {
			return errBitcode
		}
		ops = ops[1:]
	case constInlineAsmOld, constInlineAsmOld2, constInlineAsmOld3:
	default:
		if code > lastKnownConstant {
			return fmt.Errorf("%w: constant %d", errUnknownBitcode, code)
		}
		return nil
	}
	if len(ops) < 2 || uint64(len(ops)-2) < ops[1] {
		return errBitcode
	}
	r.assembly = append(r.assembly, textOf(ops[2:2+ops[1]]))
	return nil
}

func textOf(ops []uint64) string {
	text := make([]byte, len(ops))
	for i, op := range ops {
		text[i] = byte(op)
	}
	return string(text)
}
