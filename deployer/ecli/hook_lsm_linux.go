// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"lsm", "lsm.s"},
		check:    checkLSM,
		prepare: func(p *plannedProgram, o *Options) error {
			p.spec.AttachTo = p.target
			return haveBPFLSM(o.Stderr)
		},
		explain: explainLSM,
		attach: func(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
			l, err := link.AttachLSM(link.LSMOptions{Program: prog})
			if err != nil {
				return nil, "", explainLSM(p, fmt.Errorf("%s: %w", p.target, err))
			}
			return l, p.target, nil
		},
	})
}

func checkLSM(p *plannedProgram) error {
	switch {
	case p.target == "":
		return fmt.Errorf(`it names no hook; write SEC("%s/HOOK"), such as %[1]s/file_open`, strings.TrimPrefix(p.spec.SectionName, "?"))
	case !validFunction(p.target):
		return fmt.Errorf("%q is no name of an LSM hook", p.target)
	}
	return nil
}

// securityModulesFile lists the security modules that are active.
const securityModulesFile = "/sys/kernel/security/lsm"

// haveBPFLSM refuses a kernel in which LSM programs can be loaded and attached,
// but are never called. Where that cannot be told it warns.
func haveBPFLSM(stderr io.Writer) error {
	active, err := bpfLSMActive()
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "warning: it is not known whether this kernel calls LSM programs: %s\n", TextFor(stderr, err.Error()))
	case !active:
		return errNoBPFLSM
	}
	return nil
}

var errNoBPFLSM = manifest.WithKind(manifest.KindPrecondition,
	errors.New("this kernel does not call LSM programs: the security module bpf is not active"),
	"It needs Linux 5.7 with CONFIG_BPF_LSM, and bpf among the modules of the boot parameter lsm= (else of CONFIG_LSM); "+securityModulesFile+" lists those that are active.")

// bpfLSMActive reports whether the security module bpf is active. Linux tells by
// a system call since 6.8, and before that by a file.
func bpfLSMActive() (bool, error) {
	const idBPF = 109 // LSM_ID_BPF of linux/lsm.h, Linux 6.8
	var ids [64]uint64
	size := uint32(unsafe.Sizeof(ids))
	n, _, errno := unix.Syscall(unix.SYS_LSM_LIST_MODULES, uintptr(unsafe.Pointer(&ids[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 {
		return slices.Contains(ids[:min(int(n), len(ids))], idBPF), nil
	}
	data, err := os.ReadFile(securityModulesFile)
	if err != nil {
		return false, err
	}
	return slices.Contains(strings.Split(strings.TrimSpace(string(data)), ","), "bpf"), nil
}

// explainLSM says of the kernel's answer what is wrong with the hook.
func explainLSM(p *plannedProgram, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		if advice := tracingAdvice(verifier.Log); advice != "" {
			return manifest.WithKind(manifest.KindPrecondition, err, advice)
		}
		return err
	case errors.Is(err, ebpf.ErrNotSupported) && KernelHasBTF():
		if found, lookErr := findFunctions("bpf_lsm_" + p.target); lookErr == nil && len(found) == 0 {
			return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("this kernel has no LSM hook %s", p.target),
				fmt.Sprintf("%s lists the hooks, each with bpf_lsm_ in front.", kallsymsFile))
		}
		return manifest.WithKind(manifest.KindPrecondition, err, trampolineAdvice())
	case errors.Is(err, errnoNotSupported):
		return manifest.WithKind(manifest.KindPrecondition, err, trampolineAdvice())
	}
	return err
}
