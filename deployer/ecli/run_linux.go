// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// Run loads and attaches the package's programs and prints what they send
// until ctx is done. It then detaches them, prints what was sent until then and
// what sampled maps hold, and returns nil; nothing of the run is left in the kernel. It returns nil,
// too, when whoever reads Stdout goes away, and after printing the help that
// Args ask for.
//
// Every error is from before or after the run: the package asks for something
// that this runner or kernel does not have ([manifest.KindPrecondition]), an
// argument does not fit ([manifest.KindUsage]), the verifier refuses a program
// (an *[ebpf.VerifierError] with its log), Stdout fails.
func Run(ctx context.Context, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	meta := &o.Package.Meta
	line, err := newCommandLine(meta)
	if err != nil {
		return fmt.Errorf("read the program's arguments: %w", err)
	}
	settings, request, err := line.parse(o.Args)
	switch {
	case err != nil:
		return err
	case request == requestHelp:
		_, err := io.WriteString(o.Stdout, TextFor(o.Stdout, line.helpText()))
		return err
	case request == requestVersion:
		_, err := io.WriteString(o.Stdout, TextFor(o.Stdout, line.versionText()))
		return err
	}
	spec, err := loadSpec(o.Package.Object)
	if err != nil {
		return fmt.Errorf("read the object as ELF: %w", err)
	}
	targets, err := manifest.Targets(programsOf(meta, spec), o.Interface, o.Attach)
	if err != nil {
		return err
	}
	p, err := newPlanAt(meta, spec, targets)
	if err != nil {
		return err
	}
	if err := applySettings(spec, settings); err != nil {
		return err
	}
	for _, w := range p.warnings {
		fmt.Fprintf(o.Stderr, "warning: %s\n", TextFor(o.Stderr, w))
	}
	if o.Handover != "" {
		return runHandover(ctx, p, spec, &o)
	}
	in, err := start(p, spec, &o)
	if err != nil {
		return err
	}
	// The object, its types and those of the kernel are not needed any more;
	// nothing below here holds the latter two.
	o.Package = nil
	debug.FreeOSMemory()
	return in.run(ctx)
}

// An instance is a package in the kernel.
type instance struct {
	coll     *ebpf.Collection
	outputs  *outputs // nil without an export map
	links    []io.Closer
	reporter *reporter
	ready    io.Closer // nil without a socket
	// types are those of the kernel while programs are loaded; nil are its own.
	types *btf.Spec
}

// start loads and attaches. On an error nothing is left in the kernel.
func start(p *plan, spec *ebpf.CollectionSpec, o *Options) (_ *instance, err error) {
	in := &instance{reporter: newReporter(o, kernelRelease())}
	defer func() {
		if err != nil {
			_ = in.close()
		}
	}()
	if err := prepare(p, o); err != nil {
		return nil, err
	}
	if err := in.load(p, spec, o, nil); err != nil {
		return nil, err
	}
	err = attachAll(p.programs, func(prog *plannedProgram) error {
		defer prog.forget()
		return in.attach(prog, in.coll.Programs[prog.name], o)
	})
	if err != nil {
		return nil, err
	}
	in.types = nil
	if err := in.listen(o); err != nil {
		return nil, err
	}
	return in, nil
}

// prepare changes the programs to what is here: the targets, and the kernel.
func prepare(p *plan, o *Options) (err error) {
	if p.programs, err = resolveTargets(p.programs); err != nil {
		return err
	}
	if err := checkSockmaps(p.programs); err != nil {
		return err
	}
	for i := range p.programs {
		if prog := &p.programs[i]; prog.hook.prepare != nil {
			if err := prog.hook.prepare(prog, o); err != nil {
				closeTargets(p)
				return fmt.Errorf("program %s: %w", prog.name, err)
			}
		}
	}
	return nil
}

// load brings the programs into the kernel, with maps in place of those of the same
// names, and opens the readers: no event is to find a buffer that nobody reads.
func (in *instance) load(p *plan, spec *ebpf.CollectionSpec, o *Options, maps map[string]*ebpf.Map) (err error) {
	defer closeTargets(p)
	if in.types, err = kernelTypes(o); err != nil {
		return err
	}
	if in.coll, err = load(p, spec, in.types, maps); err != nil {
		return err
	}
	if len(p.exports) > 0 {
		if in.outputs, err = newOutputs(p, in.coll.Maps, o, in.reporter); err != nil {
			return err
		}
	}
	usdt, err := newUSDTSpecs(spec, in.coll)
	if err != nil {
		return err
	}
	for i := range p.programs {
		p.programs[i].usdt = usdt
	}
	return nil
}

// attach attaches program at the place of prog.
func (in *instance) attach(prog *plannedProgram, program *ebpf.Program, o *Options) error {
	section := prog.spec.SectionName
	prog.maps, prog.attached = in.coll.Maps, in.links
	link, target, err := prog.hook.attach(prog, program, o)
	if err != nil {
		return explain(fmt.Errorf("attach program %s (%s): %w", prog.name, section, err))
	}
	in.links = append(in.links, link)
	in.reporter.programs = append(in.reporter.programs, manifest.ProgramStatus{Name: prog.name, Section: section, Target: target})
	return nil
}

// forget lets go of what was needed to attach a program.
func (p *plannedProgram) forget() { p.spec, p.object, p.maps, p.attached = nil, nil, nil, nil }

// listen answers on the socket for readiness.
func (in *instance) listen(o *Options) (err error) {
	if o.ReadySocket != "" {
		in.ready, err = listenReady(o.ReadySocket)
	}
	return err
}

// closeTargets closes the loaded programs that those of the plan are loaded
// against.
func closeTargets(p *plan) {
	for i := range p.programs {
		if spec := p.programs[i].spec; spec.AttachTarget != nil {
			_ = spec.AttachTarget.Close()
			spec.AttachTarget = nil
		}
	}
}

// run prints events until ctx is done.
func (in *instance) run(ctx context.Context) error {
	in.reporter.record(manifest.StatusAttached)
	if in.outputs == nil {
		<-ctx.Done()
		return in.end(nil)
	}
	done := make(chan error, 1)
	go func() { done <- in.outputs.run() }()
	select {
	case err := <-done:
		return in.end(err)
	case <-ctx.Done():
	}
	err := in.detach()
	in.outputs.finish(true)
	if drainErr := in.outputs.wait(done); err == nil {
		err = drainErr
	}
	return in.end(err)
}

// end closes what is left and tells the last status.
func (in *instance) end(err error) error {
	if closeErr := in.close(); err == nil {
		err = closeErr
	}
	in.reporter.record(manifest.StatusDetached)
	if errors.Is(err, unix.EPIPE) {
		return nil // nobody reads any more
	}
	return err
}

// detach takes the programs off their hooks and waits for those that are still
// running on other CPUs, so that all their events are in the ring.
func (in *instance) detach() error {
	var errs []error
	if in.ready != nil {
		errs = append(errs, in.ready.Close())
		in.ready = nil
	}
	for _, l := range in.links {
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach a program: %w", err))
		}
	}
	if in.links != nil {
		// membarrier(2) waits for a grace period of RCU, under which programs
		// run. Kernels that refuse it lose at worst the events of that moment.
		_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	}
	in.links = nil
	return errors.Join(errs...)
}

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL of linux/membarrier.h, Linux 4.3.
const membarrierGlobal = 1

func (in *instance) close() error {
	err := in.detach()
	if in.outputs != nil {
		err = errors.Join(err, in.outputs.close())
		in.outputs = nil
	}
	if in.coll != nil {
		in.coll.Close()
		in.coll = nil
	}
	return err
}

// load loads the programs, with maps in place of those of the same names.
func load(p *plan, spec *ebpf.CollectionSpec, types *btf.Spec, maps map[string]*ebpf.Map) (*ebpf.Collection, error) {
	opts := ebpf.CollectionOptions{MapReplacements: maps}
	opts.Programs.KernelTypes = types
	if err := setExterns(spec); err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge maps and programs to this limit. It cannot be
	// raised everywhere, and need not be on newer ones.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
	coll, err := loadCollection(p, spec, opts)
	if err != nil {
		for i := range p.programs {
			// A collection names the program that it could not load.
			prog := &p.programs[i]
			if prog.hook.explain != nil && strings.HasPrefix(err.Error(), "program "+prog.name+":") {
				err = prog.hook.explain(prog, err)
			}
		}
		return nil, explain(fmt.Errorf("load the programs: %w", err))
	}
	return coll, nil
}

func loadCollection(p *plan, spec *ebpf.CollectionSpec, opts ebpf.CollectionOptions) (*ebpf.Collection, error) {
	for i := range p.programs {
		if prog := &p.programs[i]; prog.hook.load != nil {
			delete(spec.Programs, prog.name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, err
	}
	for i := range p.programs {
		prog := &p.programs[i]
		if prog.hook.load == nil || coll.Programs[prog.name] != nil {
			continue // what is planned for several targets is loaded once
		}
		if coll.Programs[prog.name], err = prog.hook.load(prog, coll.Maps, opts.Programs.KernelTypes); err != nil {
			delete(coll.Programs, prog.name)
			coll.Close()
			return nil, fmt.Errorf("program %s: %w", prog.name, err)
		}
	}
	return coll, nil
}

// memlockHint is what cilium/ebpf adds where the kernel refuses a map or a
// program before it looks at it. The limit was raised where that can be; what is
// missing are rights.
const memlockHint = " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"

// A reworded error is err in other words.
type reworded struct {
	text string
	err  error
}

func (r *reworded) Error() string { return r.text }
func (r *reworded) Unwrap() error { return r.err }

// explain gives an error of the kernel its kind, and says what to do.
func explain(err error) error {
	if text := err.Error(); strings.Contains(text, memlockHint) {
		err = &reworded{strings.ReplaceAll(text, memlockHint, ""), err}
	}
	var verifier *ebpf.VerifierError
	switch {
	case manifest.AdviceOf(err) != "":
		return err
	case errors.Is(err, btf.ErrNotSupported) && !KernelHasBTF() && os.Getenv(btfFileEnv) == "":
		return manifest.WithKind(manifest.KindPrecondition, err, noBTFAdvice)
	case errors.Is(err, ebpf.ErrNotSupported):
		return manifest.WithKind(manifest.KindPrecondition, err, "")
	case errors.As(err, &verifier) && needsPerfmon(verifier.Log):
		return manifest.WithKind(manifest.KindPrecondition, err,
			"The verifier allows that only with CAP_PERFMON: run as root or with that capability, or write the program without it (constant offsets from a pointer, no pointers in events and maps).")
	case errors.As(err, &verifier) && !errors.Is(err, unix.EPERM):
		return err
	case errors.Is(err, unix.EACCES) && !mayOpenPerfEvents():
		return manifest.WithKind(manifest.KindPrecondition, err, perfAdvice)
	case errors.Is(err, fs.ErrPermission) && hasCapability(unix.CAP_SYS_ADMIN):
		return manifest.WithKind(manifest.KindPrecondition, err,
			"The kernel refuses it although this process has CAP_SYS_ADMIN, which counts outside of user namespaces only; tc before Linux 6.6 needs CAP_NET_ADMIN, too. Else look at lockdown (/sys/kernel/security/lockdown), security modules, seccomp filters, and, in a virtual machine, at what that lets through.")
	case errors.Is(err, fs.ErrPermission):
		return manifest.WithKind(manifest.KindPrecondition, err,
			"The kernel does not let this process do that: be root, or have the capabilities that the hook needs (CAP_BPF and CAP_PERFMON for tracing, CAP_BPF and CAP_NET_ADMIN for networking).")
	}
	return err
}

// needsPerfmon reports whether the verifier refused what it allows to a process
// with CAP_PERFMON: arithmetic that speculative execution could misuse, and
// kernel pointers that become visible.
func needsPerfmon(log []string) bool {
	return slices.ContainsFunc(log, func(line string) bool {
		return strings.Contains(line, "prohibited for !root") || strings.Contains(line, "leaks addr") || strings.Contains(line, "pointer comparison prohibited")
	})
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
