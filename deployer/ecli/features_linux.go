// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// needProgramType says that a kernel lacks the type of a program, where it would
// only say that an argument is invalid. since is the first version that has it.
func needProgramType(p *plannedProgram, since string) error {
	if err := features.HaveProgramType(p.spec.Type); errors.Is(err, ebpf.ErrNotSupported) {
		return manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("this kernel has no programs of type %s", p.spec.Type),
			fmt.Sprintf("Linux has them since %s.", since))
	}
	return nil
}

// needAttachType is needProgramType for a kind of attachment that came later
// than the programs' type.
func needAttachType(p *plannedProgram, since string) error {
	prog, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Type: p.spec.Type, AttachType: p.spec.AttachType,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	}, ebpf.ProgramOptions{LogDisabled: true})
	if err == nil {
		return prog.Close()
	}
	if errors.Is(err, unix.EINVAL) {
		return manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("this kernel does not attach programs as %s", p.spec.AttachType),
			fmt.Sprintf("Linux does since %s.", since))
	}
	return nil // the program itself will say
}
