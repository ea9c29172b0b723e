// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestCheckArgs(t *testing.T) {
	meta := &manifest.Meta{Skeleton: manifest.Skeleton{ObjName: "x_bpf", DataSections: []manifest.DataSection{{
		Name: ".rodata", Variables: []manifest.Variable{{Name: "pid", Type: "int"}},
	}}}}
	for args, want := range map[string]string{
		"":          "",
		"--pid 7":   "",
		"--nosuch":  "unexpected argument '--nosuch'",
		"--help":    "would print a text",
		"--version": "would print a text",
	} {
		err := CheckArgs(meta, strings.Fields(args))
		if want == "" {
			if err != nil {
				t.Errorf("%q is refused: %v", args, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || manifest.KindOf(err) != manifest.KindUsage {
			t.Errorf("%q: error %v of kind %d, want KindUsage with %q", args, err, manifest.KindOf(err), want)
		}
	}
}
