// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

const (
	maxBitcodeSize  = 256 << 20
	maxAssemblySize = 1 << 30
	// maxAssemblyLine bounds one line of assembly, in bytes.
	maxAssemblyLine = 64 << 20
)

// forbiddenDirectives read files, or define text that could name one that does
// without saying so. The assembler takes them in any case.
var forbiddenDirectives = []string{
	".incbin", ".include",
	".macro", ".irp", ".irpc", ".rept", ".rep", ".altmacro",
}

// checkAssembly fails when inline assembly would read files of this machine
// into the object. back are the arguments by which clang reads the bitcode.
//
// Most modules have no assembly beyond libbpf's, which is plain to see in the
// bitcode. For others the check is on what the assembler will be given, after
// operands were put into the templates.
func (c *compilation) checkAssembly(ctx context.Context, bitcode string, back []string) error {
	module, err := readFile(bitcode, maxBitcodeSize)
	if err != nil {
		return fmt.Errorf("read what %s made of %s: %w", c.Clang, c.Source, err)
	}
	if m, err := readBitcode(module); err == nil && allPlain(m.assembly) {
		return nil
	}
	text := filepath.Join(c.scratch, "module.s")
	// With the integrated assembler, clang may carry directives out and print
	// what they read in their place.
	args := append(back[:len(back):len(back)], "-S", "-fno-integrated-as", "-o", text)
	messages, err := c.run(ctx, toolEnv(), c.Clang, args...)
	if err := c.toolFailed(c.Clang, err); err != nil {
		if isCompileError(err) {
			c.print(c.userNames(messages))
		}
		return err
	}
	file, err := os.Open(text)
	if err != nil {
		return err
	}
	defer file.Close()
	directive, err := forbiddenIn(io.LimitReader(file, maxAssemblySize))
	if err != nil {
		return fmt.Errorf("check inline assembly: %w", err)
	}
	if directive == "" {
		return nil
	}
	place, _ := c.findDirective(ctx, directive)
	return refuseAssembly(place, directive)
}

// Where clang puts the bitcode of an object (-fembed-bitcode), and its own command
// line.
const (
	bitcodeSection = ".llvmbc"
	commandSection = ".llvmcmd"
)

// isPlainObject reports whether the bitcode in an object shows that nothing but
// instructions went through the assembler, and that it holds the text of all its
// files.
//
// The bitcode is what clang had before any assembly took effect, but assembly
// could put something beside it. So there must be one section of that name, and
// one magic number in it, at its start: clang's own is always there.
func isPlainObject(object io.ReaderAt) (plain bool) {
	defer func() {
		if recover() != nil {
			plain = false // debug/elf panics on some malformed files
		}
	}()
	file, err := elf.NewFile(object)
	if err != nil {
		return false
	}
	var bitcode []byte
	for _, section := range file.Sections {
		relocates := section.Type == elf.SHT_REL || section.Type == elf.SHT_RELA //nolint:misspell // It is the name of the type.
		if relocates && int(section.Info) < len(file.Sections) && file.Sections[section.Info].Name == bitcodeSection {
			return false // what was written is not all
		}
		if section.Name != bitcodeSection {
			continue
		}
		if bitcode != nil || section.Size > maxBitcodeSize {
			return false
		}
		if bitcode, err = section.Data(); err != nil || len(bitcode) == 0 {
			return false
		}
	}
	magic := binary.LittleEndian.AppendUint32(nil, bitcodeMagic)
	if !bytes.HasPrefix(bitcode, magic) || bytes.Count(bitcode, magic) != 1 {
		return false
	}
	m, err := readBitcode(bitcode)
	return err == nil && m.bareFiles == 0 && allPlain(m.assembly)
}

func refuseAssembly(place, directive string) error {
	return manifest.WithKind(manifest.KindFailure,
		fmt.Errorf("%s: inline assembly with %s is refused: it can read files of the machine that compiles", place, directive),
		"Put the data into the source as an array.")
}

// checkFailedAssembly is [compilation.checkAssembly] for a source of which
// clang made no bitcode. clang's messages may quote a file that assembly at
// file scope names, where the directive stands in full.
func (c *compilation) checkFailedAssembly(ctx context.Context) error {
	if place, directive := c.findDirective(ctx, forbiddenDirectives...); directive != "" {
		return refuseAssembly(place, directive)
	}
	return nil
}

// allPlain reports whether templates hold no directive at all and begin no
// statement with an operand, so that they can only be instructions.
func allPlain(templates []string) bool {
	for _, t := range templates {
		if !plain(t) {
			return false
		}
	}
	return true
}

// plain reports whether each statement of an asm template begins like an
// instruction and has nothing behind which another could begin unseen: a
// comment, a quote, an alternative. Labels are allowed.
func plain(template string) bool {
	start := true
	for i := 0; i < len(template); i++ {
		switch c := template[i]; {
		case c == '\n' || c == '\r' || c == ';' || c == ':':
			start = true
		case c == ' ' || c == '\t':
		case c == '"' || c == '\'' || c == '\\' || c == '#' || c == '|' || c == '@' || c < 0x20 || c > 0x7e:
			return false
		case c == '/' && i+1 < len(template) && (template[i+1] == '/' || template[i+1] == '*'):
			return false
		case start && c != '*' && !isIdentByte(c):
			return false
		default:
			start = false
		}
		if strings.HasPrefix(template[i:], "${:") {
			return false // the compiler's own text, such as a comment sign
		}
	}
	return true
}

// forbiddenIn returns the first of the forbidden directives in assembly text as
// clang -S writes it, or "". Any mention counts, except in a line that holds
// nothing but data.
func forbiddenIn(r io.Reader) (string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxAssemblyLine)
	for lines.Scan() {
		line := bytes.ToLower(lines.Bytes())
		for _, d := range forbiddenDirectives {
			if mentions(line, d) && !dataLine.Match(line) {
				return d, nil
			}
		}
	}
	return "", lines.Err()
}

// dataLine matches a directive with strings, as clang prints the text of the
// source, behind which no statement stands.
var dataLine = regexp.MustCompile(`^\t\.(?:asciz|ascii|string|file|ident)\t(?:"(?:[^"\\]|\\.)*"|[a-z0-9_ ,])*(?:[\t ]*# [a-z0-9_= ]*)?$`)

// mentions reports whether word is in line with no letter or digit behind it.
func mentions(line []byte, word string) bool {
	for {
		i := bytes.Index(line, []byte(word))
		if i < 0 {
			return false
		}
		line = line[i+len(word):]
		if len(line) == 0 || !isIdentByte(line[0]) {
			return true
		}
	}
}

// findDirective returns the file and line of the first asm that names one of
// directives, and which. When there is none, it may be put together from
// operands: the place is the source then.
func (c *compilation) findDirective(ctx context.Context, directives ...string) (place, directive string) {
	front, err := c.frontendArgs()
	if err != nil {
		return c.Source, ""
	}
	preprocessed := filepath.Join(c.scratch, "source.i")
	if _, err := c.run(ctx, toolEnv(), c.Clang, append(front, "-E", "-o", preprocessed)...); err != nil {
		return c.Source, ""
	}
	text, err := readFile(preprocessed, maxBitcodeSize)
	if err != nil {
		return c.Source, ""
	}
	if place, directive := findAssembly(text, directives); directive != "" {
		return place, directive
	}
	return c.Source, ""
}
