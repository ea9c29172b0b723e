// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// droppedDebugInfo is in the message by which LLVM says that it found the debug
// information invalid and went on without it. There is no BTF then.
var droppedDebugInfo = []byte("ignoring invalid debug info")

// completeSources makes the bitcode again such that LLVM keeps its debug
// information, and returns the files that clang read.
//
// clang before 15 leaves the text of a file out (-gembed-source) when the first
// that it describes of the file has a name out of a macro, as the function of
// BPF_PROG or BPF_KPROBE. LLVM takes the text of all files or of none.
func (c *compilation) completeSources(ctx context.Context, bitcode string) ([]string, error) {
	module := filepath.Join(c.scratch, "module.ll")
	_, dependencies, compileErr, err := c.frontend(ctx, "-emit-llvm", "-S", "-o", module)
	if err != nil {
		return nil, err
	}
	if compileErr != nil {
		return nil, c.toolFailed(c.Clang, compileErr)
	}
	text, err := readFile(module, maxAssemblySize)
	if err != nil {
		return nil, fmt.Errorf("read what %s made of %s: %w", c.Clang, c.Source, err)
	}
	if err := os.WriteFile(module, embedSources(text), 0o600); err != nil {
		return nil, err
	}
	messages, err := c.run(ctx, toolEnv(), c.Clang, append(c.backendArgs(module), "-emit-llvm", "-c", "-o", bitcode)...)
	if err := c.toolFailed(c.Clang, err); err != nil {
		c.print(c.userNames(messages))
		return nil, err
	}
	return dependencies, c.checkAssembly(ctx, bitcode, c.backendArgs(bitcode))
}

// fileNode matches the node of a file in the text of LLVM's form of a program.
// Strings in it hold no quote and no line break.
var fileNode = regexp.MustCompile(`(?m)^(!\d+ = (?:distinct )?)(!DIFile\(filename: "[^"\n]*", directory: "[^"\n]*"(?:, checksumkind: \w+, checksum: "[^"\n]*")?)(, source: "[^"\n]*")?\)$`)

// embedSources gives each file without text that of a node of the same file, or
// an empty line.
func embedSources(module []byte) []byte {
	sources := map[string][]byte{}
	for _, m := range fileNode.FindAllSubmatch(module, -1) {
		if len(m[3]) > 0 {
			sources[string(m[2])] = m[3]
		}
	}
	var b bytes.Buffer
	rest := 0
	for _, m := range fileNode.FindAllSubmatchIndex(module, -1) {
		if m[6] >= 0 {
			continue
		}
		source, ok := sources[string(module[m[4]:m[5]])]
		if !ok {
			source = []byte(`, source: "\0A"`)
		}
		b.Write(module[rest:m[5]])
		b.Write(source)
		rest = m[5]
	}
	b.Write(module[rest:])
	return b.Bytes()
}
