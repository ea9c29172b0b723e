// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"fentry", "fexit", "fmod_ret", "fentry.s", "fexit.s", "fmod_ret.s"},
		check: func(p *plannedProgram) error {
			switch {
			case p.target == "":
				return fmt.Errorf(`it names no function; write SEC("%s/FUNCTION"), such as %[1]s/do_unlinkat`, strings.TrimPrefix(p.spec.SectionName, "?"))
			case !validFunction(p.target):
				return fmt.Errorf("%q is no name of a kernel function", p.target)
			}
			return nil
		},
		prepare: func(p *plannedProgram, _ *Options) error {
			p.spec.AttachTo = p.target
			return nil
		},
		explain: explainFentry,
		attach:  attachFentry,
	})
}

func attachFentry(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	l, err := link.AttachTracing(link.TracingOptions{Program: prog, AttachType: p.spec.AttachType})
	if err != nil {
		return nil, "", explainFentry(p, fmt.Errorf("%s: %w", p.target, err))
	}
	return l, p.target, nil
}

// errnoNotSupported is ENOTSUPP of the kernel, which no header shows to users.
const errnoNotSupported = unix.Errno(524)

// explainFentry says of the kernel's answer to a program, or to its attachment,
// what is wrong with its target.
func explainFentry(p *plannedProgram, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		if advice := tracingAdvice(verifier.Log); advice != "" {
			return manifest.WithKind(manifest.KindPrecondition, err, advice)
		}
		return err
	case errors.Is(err, errnoNotSupported) || errors.Is(err, ebpf.ErrNotSupported) && KernelHasBTF():
		if found, lookErr := findFunctions(p.target); lookErr == nil && len(found) == 0 {
			return errNoFunction(p.target)
		} else if lookErr == nil && found[0] != "" {
			return manifest.WithKind(manifest.KindPrecondition, err, fmt.Sprintf(
				"%s is a function of the module %s, whose types the kernel shows to CAP_SYS_ADMIN only.", p.target, found[0]))
		}
		return manifest.WithKind(manifest.KindPrecondition, err, trampolineAdvice())
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL):
		return manifest.WithKind(manifest.KindPrecondition, err,
			"Nobody can trace that function, or something else already does in a way that excludes this; /sys/kernel/tracing/available_filter_functions lists those that can be traced.")
	}
	return err
}

// tracingAdvice tells what the verifier's words for a target mean.
func tracingAdvice(log []string) string {
	all := strings.Join(log, "\n")
	switch {
	case strings.Contains(all, "is not modifiable"):
		return "fmod_ret takes functions whose result the kernel lets programs change: security_* hooks and, with CONFIG_FUNCTION_ERROR_INJECTION, those of /sys/kernel/debug/error_injection/list."
	case strings.Contains(all, "is not sleepable"):
		return "The kernel does not say that this function may sleep, which it does of few without CONFIG_FUNCTION_ERROR_INJECTION: take the section without .s."
	case strings.Contains(all, "doesn't have a return type") || strings.Contains(all, "void return"):
		return "The function returns nothing that could be seen or changed: take fentry."
	}
	return ""
}

// trampolineAdvice tells which kernels attach programs by the BPF trampoline.
func trampolineAdvice() string {
	switch runtime.GOARCH {
	case "amd64":
		return "fentry, fexit and fmod_ret need Linux 5.5 (fmod_ret: 5.7; sections with .s: 5.10) with CONFIG_DEBUG_INFO_BTF, CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE, and a function whose type is in the kernel's BTF; where it is not, a kprobe may do."
	case "arm64":
		return "On arm64 fentry, fexit and fmod_ret need Linux 6.0 for programs and 6.4 for functions of the kernel (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS), and a function whose type is in the kernel's BTF; where it is not, a kprobe may do."
	}
	return fmt.Sprintf("This kernel does not have what fentry needs on %s: a kprobe may do.", runtime.GOARCH)
}
