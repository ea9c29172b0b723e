// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"errors"
	"fmt"
)

// wasmHeaderFile is the header that a WebAssembly program of eunomia-bpf
// includes to carry its package.
const wasmHeaderFile = "ewasm-skel.h"

// wasmHeader returns the header with a package.json as a C string. Blanks are
// those of eunomia-bpf's ecc, which escapes quotes only, so that its header does
// not compile where the JSON has an escape of its own.
func wasmHeader(packed []byte) []byte {
	return fmt.Appendf(nil, `
    // auto generated. do not edit.
    #ifndef EWASM_JSON_INCLUDE_H_
    #define EWASM_JSON_INCLUDE_H_
    char* program_data = "%s";
    #endif
    `, escapeC(packed))
}

// escapeC writes what is not itself in a C string. Of two question marks, which
// may begin a trigraph, the second is escaped.
func escapeC(text []byte) []byte {
	escaped := make([]byte, 0, len(text)+len(text)/16)
	for i, c := range text {
		if c == '"' || c == '\\' || c == '?' && i > 0 && text[i-1] == '?' {
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, c)
	}
	return escaped
}

// checkWasmHeader refuses flags that leave out the package.json that the header
// holds. Upstream takes one that another run left behind.
func (c *compilation) checkWasmHeader() error {
	switch {
	case !c.WasmHeader:
		return nil
	case c.NoPackage:
		return errors.New("generate wasm header: it holds package.json, which --no-generate-package-json leaves out: call ecc without that flag")
	case c.YAML:
		return errors.New("generate wasm header: it holds package.json, which --yaml replaces by package.yaml: call ecc without that flag")
	}
	return nil
}
