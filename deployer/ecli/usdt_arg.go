// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"debug/elf"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// A usdtArg says where an argument of a USDT probe is when the probe is hit.
type usdtArg struct {
	kind usdtArgKind
	// size is that of the value in bytes, 1, 2, 4 or 8.
	size   uint8
	signed bool
	// value is the constant, or what is added to the address in registers.
	value int64
	// variable is the name of the variable whose address is to be added; the
	// register is the instruction pointer then.
	variable string
	// register and index are offsets into struct pt_regs.
	register, index uint16
	// shift is by how many bits the index is shifted.
	shift uint8
}

// usdtArgKind has the numbers of enum __bpf_usdt_arg_type in usdt.bpf.h.
type usdtArgKind uint8

const (
	usdtConst  usdtArgKind = iota // the value itself
	usdtReg                       // in a register
	usdtDeref                     // in memory, at register + value
	usdtScaled                    // in memory, at register + index<<shift + value
)

// elfMachines are those whose registers are known.
var elfMachines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// maxUSDTArgs is BPF_USDT_MAX_ARG_CNT of usdt.bpf.h, and the most that the
// macros of sys/sdt.h make.
const maxUSDTArgs = 12

// parseUSDTArgs reads the arguments of a note, SIZE@OPERAND with blanks
// between them. SIZE is negative of a signed value, OPERAND what the compiler
// would write in an instruction.
func parseUSDTArgs(machine elf.Machine, text string) ([]usdtArg, error) {
	var args []usdtArg
	for text = strings.Trim(text, " \t"); text != ""; text = strings.TrimLeft(text, " \t") {
		if len(args) == maxUSDTArgs {
			return nil, fmt.Errorf("it has more than %d arguments", maxUSDTArgs)
		}
		var word string
		word, text = cutUSDTArg(text)
		arg, err := parseUSDTArg(machine, word)
		if err != nil {
			return nil, fmt.Errorf("argument %d, %q: %w", len(args)+1, shorten(word), err)
		}
		args = append(args, arg)
	}
	return args, nil
}

// cutUSDTArg cuts the first argument off. Blanks within brackets are part of it.
func cutUSDTArg(text string) (arg, rest string) {
	depth := 0
	for i, c := range []byte(text) {
		switch c {
		case '(', '[':
			depth++
		case ')', ']':
			depth--
		case ' ', '\t':
			if depth <= 0 {
				return text[:i], text[i:]
			}
		}
	}
	return text, ""
}

// shorten bounds what an error shows of a file's text.
func shorten(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

func parseUSDTArg(machine elf.Machine, word string) (usdtArg, error) {
	size, operand, ok := strings.Cut(word, "@")
	if !ok {
		return usdtArg{}, errors.New("it is not of the form SIZE@OPERAND")
	}
	var arg usdtArg
	digits, signed := strings.CutPrefix(size, "-")
	arg.signed = signed
	switch digits {
	case "1", "2", "4", "8":
		arg.size = digits[0] - '0'
	default:
		if strings.HasSuffix(digits, "f") {
			return arg, errors.New("floating point numbers are in registers that eBPF programs do not see")
		}
		return arg, fmt.Errorf("the size %q is none of 1, 2, 4 and 8", shorten(size))
	}
	switch machine {
	case elf.EM_X86_64:
		return arg, arg.parseX86(operand)
	case elf.EM_AARCH64:
		return arg, arg.parseARM64(operand)
	}
	return arg, fmt.Errorf("the registers of %s are not known to this runner", machine)
}

// parseX86 reads an operand of the AT&T syntax: $CONSTANT, %REGISTER, or
// OFFSET(%BASE,%INDEX,SCALE), of which only the base must be there.
func (a *usdtArg) parseX86(operand string) (err error) {
	if number, ok := strings.CutPrefix(operand, "$"); ok {
		a.kind = usdtConst
		a.value, err = parseUSDTNumber(number)
		return err
	}
	if strings.HasPrefix(operand, "%") {
		a.kind = usdtReg
		a.register, err = x86Register(operand)
		return err
	}
	offset, address, ok := strings.Cut(operand, "(")
	address, closed := strings.CutSuffix(address, ")")
	if !ok || !closed {
		return errors.New("it is neither a constant nor a register nor memory at a register")
	}
	a.kind = usdtDeref
	if a.value, a.variable, err = parseX86Offset(offset); err != nil {
		return err
	}
	parts := strings.Split(address, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	if a.register, err = x86Register(parts[0]); err != nil {
		return err
	}
	if relative := a.register == x86Registers["rip"]; relative != (a.variable != "") || relative && len(parts) > 1 {
		return errors.New("a variable by its name is at the instruction pointer, and nothing else is")
	}
	if len(parts) == 1 {
		return nil
	}
	a.kind = usdtScaled
	if a.index, err = x86Register(parts[1]); err != nil {
		return err
	}
	switch {
	case len(parts) == 2:
		return nil
	case len(parts) > 3:
		return errors.New("an address has at most a base, an index and a scale")
	}
	switch parts[2] {
	case "1", "2", "4", "8":
		a.shift = uint8(bits.TrailingZeros8(parts[2][0] - '0'))
		return nil
	}
	return fmt.Errorf("the scale %q is none of 1, 2, 4 and 8", shorten(parts[2]))
}

// parseX86Offset reads what stands before the registers of an address: nothing,
// a number, a variable's name, or both with a + between them in any order.
func parseX86Offset(s string) (value int64, variable string, err error) {
	if s == "" {
		return 0, "", nil
	}
	if value, err = parseUSDTNumber(s); err == nil {
		return value, "", nil
	}
	i := strings.LastIndexAny(s, "+-")
	if i <= 0 {
		return 0, s, checkVariable(s)
	}
	// Below zero the number is behind the name: name-16.
	first, second := s[:i], strings.TrimPrefix(s[i:], "+")
	if n, err := parseUSDTNumber(first); err == nil && s[i] == '+' {
		return n, second, checkVariable(second)
	}
	if value, err = parseUSDTNumber(second); err != nil {
		return 0, "", err
	}
	return value, first, checkVariable(first)
}

func checkVariable(name string) error {
	for i, c := range []byte(name) {
		letter := c == '_' || c == '.' || c == '$' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("%q is neither a number nor a variable", shorten(name))
		}
	}
	if name == "" {
		return errors.New("it names no variable")
	}
	return nil
}

// parseARM64 reads CONSTANT, REGISTER, [REGISTER] or [REGISTER, OFFSET].
func (a *usdtArg) parseARM64(operand string) (err error) {
	address, isAddress := strings.CutPrefix(operand, "[")
	if !isAddress {
		if operand != "" && (operand[0] >= 'a' && operand[0] <= 'z') {
			a.kind = usdtReg
			a.register, err = arm64Register(operand)
			return err
		}
		a.kind = usdtConst
		a.value, err = parseUSDTNumber(strings.TrimPrefix(operand, "#"))
		return err
	}
	address, closed := strings.CutSuffix(address, "]")
	if !closed {
		return errors.New("its bracket is not closed")
	}
	a.kind = usdtDeref
	register, offset, hasOffset := strings.Cut(address, ",")
	if a.register, err = arm64Register(strings.TrimSpace(register)); err != nil || !hasOffset {
		return err
	}
	a.value, err = parseUSDTNumber(strings.TrimPrefix(strings.TrimSpace(offset), "#"))
	return err
}

// parseUSDTNumber reads a number of 64 bits, with a sign or without.
func parseUSDTNumber(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseUint(s, 0, 64); err == nil {
		return int64(n), nil
	}
	return 0, fmt.Errorf("%q is no number", shorten(s))
}

// x86Registers are the offsets into struct pt_regs of x86-64, whose order is
// that of arch/x86/include/asm/ptrace.h.
var x86Registers = func() map[string]uint16 {
	offsets := map[string]uint16{}
	for i, names := range []string{
		"r15 r15d r15w r15b", "r14 r14d r14w r14b", "r13 r13d r13w r13b", "r12 r12d r12w r12b",
		"rbp ebp bp bpl", "rbx ebx bx bl",
		"r11 r11d r11w r11b", "r10 r10d r10w r10b", "r9 r9d r9w r9b", "r8 r8d r8w r8b",
		"rax eax ax al", "rcx ecx cx cl", "rdx edx dx dl", "rsi esi si sil", "rdi edi di dil",
		"" /* orig_ax */, "rip eip", "" /* cs */, "" /* flags */, "rsp esp sp spl",
	} {
		for _, name := range strings.Fields(names) {
			offsets[name] = uint16(8 * i)
		}
	}
	return offsets
}()

// x86Register returns the offset of a register in struct pt_regs. Its narrower
// names are of the same place, where the low byte comes first.
func x86Register(name string) (uint16, error) {
	bare, ok := strings.CutPrefix(name, "%")
	offset, known := x86Registers[bare]
	switch {
	case ok && known:
		return offset, nil
	case bare == "ah" || bare == "bh" || bare == "ch" || bare == "dh":
		return 0, fmt.Errorf("the second byte of a register, %s, cannot be read", name)
	case strings.HasPrefix(bare, "xmm") || strings.HasPrefix(bare, "st"):
		return 0, fmt.Errorf("eBPF programs do not see register %s", name)
	}
	return 0, fmt.Errorf("there is no register %q on x86-64", shorten(name))
}

// arm64Register returns the offset in struct pt_regs of arm64, which begins
// with x0 to x30 and the stack pointer.
func arm64Register(name string) (uint16, error) {
	if name == "sp" {
		return 31 * 8, nil
	}
	if len(name) > 1 && (name[0] == 'x' || name[0] == 'w') {
		if n, err := strconv.ParseUint(name[1:], 10, 8); err == nil && n <= 30 {
			return uint16(8 * n), nil
		}
	}
	return 0, fmt.Errorf("there is no register %q on arm64 that eBPF programs see", shorten(name))
}
