// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"ksyscall", "kretsyscall"},
		check: func(p *plannedProgram) error {
			switch {
			case p.target == "":
				return errors.New(`it names no system call; write SEC("ksyscall/NAME"), such as ksyscall/unlinkat`)
			case !validFunction(p.target):
				return fmt.Errorf("%q is no name of a system call", p.target)
			}
			return nil
		},
		attach: attachKsyscall,
	})
}

// attachKsyscall attaches to the function of a system call, whose name depends
// on the architecture.
func attachKsyscall(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	wrapper, err := syscallWrapper()
	if err != nil {
		return nil, "", err
	}
	k := kprobe{function: "__se_sys_" + p.target, ret: hasSectionPrefix(p.spec, "kret")}
	if wrapper != "" {
		k.function = wrapper + "sys_" + p.target
	}
	if !hasKprobes() {
		return nil, "", errNoKprobes
	}
	if found, err := findFunctions(k.function); err == nil && len(found) == 0 {
		return nil, "", manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("this kernel has no system call %s (function %s)", p.target, k.function),
			fmt.Sprintf("It is named as in its manual page, without sys_; %s has those that there are, as %s.", kallsymsFile, strings.TrimSuffix(k.function, p.target)+"NAME"))
	}
	return k.attach(prog)
}
