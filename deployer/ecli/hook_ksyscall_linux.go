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
		prepare: func(p *plannedProgram, _ *Options) error {
			k, err := systemCall(p)
			if err != nil {
				return err
			}
			k.prepare(p)
			return nil
		},
		attach: func(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
			k, err := systemCall(p)
			if err != nil {
				return nil, "", err
			}
			return k.attach(p, prog)
		},
	})
}

// systemCall finds the function of a system call, whose name depends on the
// architecture.
func systemCall(p *plannedProgram) (kprobe, error) {
	k := kprobe{function: "__se_sys_" + p.target, ret: hasSectionPrefix(p.spec, "kret")}
	if !hasKprobes() {
		return k, errNoKprobes
	}
	wrapper, err := syscallWrapper()
	if err != nil {
		return k, err
	}
	if wrapper != "" {
		k.function = wrapper + "sys_" + p.target
	}
	if found, err := findFunctions(k.function); err == nil && len(found) == 0 {
		return k, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("this kernel has no system call %s (function %s)", p.target, k.function),
			fmt.Sprintf("It is named as in its manual page; %s has those that there are, as %s.", kallsymsFile, strings.TrimSuffix(k.function, p.target)+"NAME"))
	}
	return k, nil
}
