// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// Options are those of a build, wherever it runs.
type Options struct {
	// Ref is what the package will be called. It has a tag and no digest.
	Ref manifest.Reference
	// Created is SOURCE_DATE_EPOCH, see [SourceDateEpoch]; zero is the epoch.
	Created time.Time
	// Platforms are what the package is for, each once; empty is that of the
	// machine that compiles.
	Platforms []manifest.Platform
	// Diagnostics gets the compiler's messages as it printed them, with the
	// user's paths; nil drops them.
	Diagnostics io.Writer
	// Progress is told what happens, from one goroutine; nil is silent.
	Progress func(Event)
}

// Step is a step of a build.
type Step string

// The steps, in their order.
const (
	StepSource  Step = "source"  // the source is packed and, for a cluster, pushed
	StepPull    Step = "pull"    // the Job fetches the source
	StepCompile Step = "compile" // ecc
	StepPush    Step = "push"    // the package is put together and, in a cluster, pushed
	StepCleanup Step = "cleanup" // the Job is taken away
)

// Event is what a build tells while it runs.
type Event struct {
	Step Step
	// Detail is one line about the step, such as why it waits; it is empty when
	// the step begins or ends.
	Detail string
	// Done is true when the step has ended well.
	Done bool
}

func (o *Options) tell(e Event) {
	if o.Progress != nil {
		o.Progress(e)
	}
}

// check refuses targets and platforms that no build can have, and a version that
// the tag contradicts, before anything is done.
func (o *Options) check(s *Source) error {
	if o.Ref.Tag == "" || o.Ref.Digest != "" {
		return usage("build %s: the target %s must have a tag and no digest", s.Spec.Name, o.Ref)
	}
	for _, p := range o.Platforms {
		if !slices.Contains(ecc.Architectures(), p.Architecture) {
			return usage("build %s: the kernel's types are not known for %s, only for linux on %s", s.Spec.Name, p, strings.Join(ecc.Architectures(), " and "))
		}
	}
	_, err := s.Spec.ResolveVersion(o.Ref.Tag)
	return err
}

// Toolchain is what compiles on this machine. Empty fields are the defaults.
type Toolchain struct {
	// Clang and LLVMStrip are programs; empty is clang and llvm-strip.
	Clang, LLVMStrip string
	// Vmlinux is a vmlinux.h; empty is the one inside ebpm.
	Vmlinux string
	// BTFHub is the folder of a btfhub archive. The package gets what it needs of
	// the types of the kernels in it; empty is none.
	BTFHub string
}

// Local builds on this machine and returns the package, which the caller stores.
func Local(ctx context.Context, s *Source, o Options, t Toolchain) (*registry.Artifact, error) {
	if err := o.check(s); err != nil {
		return nil, err
	}
	if t.Vmlinux != "" && len(o.Platforms) > 1 {
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("build %s: the vmlinux.h %s is of one architecture, the build of several", s.Spec.Name, t.Vmlinux),
			"Build for one platform, or without a vmlinux.h of your own.")
	}
	source, made, err := compile(ctx, s, o, t)
	if err != nil {
		return nil, err
	}
	o.tell(Event{Step: StepPush})
	a, err := Assemble(Parts{Source: source, File: s.File, Compiled: made, Tag: o.Ref.Tag, Created: o.Created})
	if err != nil {
		return nil, err
	}
	o.tell(Event{Step: StepPush, Done: true})
	return a, nil
}

// Compile compiles on this machine for whoever runs the program at once: the
// package has no name and is stored nowhere.
func Compile(ctx context.Context, s *Source, t Toolchain, diagnostics io.Writer) (*manifest.Package, error) {
	_, made, err := compile(ctx, s, Options{Diagnostics: diagnostics}, t)
	if err != nil {
		return nil, err
	}
	return manifest.DecodePackage(made[0].Package)
}

// compile gives the compiler what is in source.tar, unpacked beside nothing
// else, so that a source that builds here builds everywhere. It returns
// source.tar and what was made of it for each platform.
func compile(ctx context.Context, s *Source, o Options, t Toolchain) (source []byte, made []Compiled, err error) {
	o.tell(Event{Step: StepSource})
	if source, err = PackSource(s, o.Created); err != nil {
		return nil, nil, err
	}
	tmp, err := os.MkdirTemp("", "ebpm-build-*")
	if err != nil {
		return nil, nil, fmt.Errorf("build %s: %w", s.Spec.Name, err)
	}
	defer func() {
		if left := os.RemoveAll(tmp); left != nil {
			source, made, err = nil, nil, errors.Join(err, fmt.Errorf("build %s: remove the scratch folder: %w", s.Spec.Name, left))
		}
	}()
	in := filepath.Join(tmp, "source")
	if err := UnpackSource(source, in); err != nil {
		return nil, nil, err
	}
	o.tell(Event{Step: StepSource, Done: true})

	o.tell(Event{Step: StepCompile})
	platforms := o.Platforms
	if len(platforms) == 0 {
		platforms = []manifest.Platform{manifest.HostPlatform()}
	}
	for _, platform := range platforms {
		if len(platforms) > 1 {
			o.tell(Event{Step: StepCompile, Detail: platform.String()})
		}
		out := filepath.Join(tmp, platform.Architecture+".out")
		one, err := compileFor(ctx, platform, s, in, out, o, t)
		if err != nil {
			if len(platforms) > 1 {
				err = fmt.Errorf("build for %s: %w", platform, err)
			}
			return nil, nil, err
		}
		made = append(made, one)
	}
	o.tell(Event{Step: StepCompile, Done: true})
	return source, made, nil
}

// compileFor compiles the source that was unpacked into in for one platform; out
// is a folder that it makes.
func compileFor(ctx context.Context, platform manifest.Platform, s *Source, in, out string, o Options, t Toolchain) (Compiled, error) {
	none := Compiled{}
	if err := os.Mkdir(out, 0o700); err != nil {
		return none, fmt.Errorf("build %s: %w", s.Spec.Name, err)
	}
	d := newDiagnostics(o.Diagnostics, in, s)
	options := ecc.Options{
		Source:      filepath.Join(in, filepath.FromSlash(s.File)),
		Output:      out,
		Clang:       t.Clang,
		LLVMStrip:   t.LLVMStrip,
		Vmlinux:     t.Vmlinux,
		BTFHub:      t.BTFHub,
		Arch:        platform.Architecture,
		Diagnostics: d,
	}
	if s.Header != "" {
		options.Header = filepath.Join(in, filepath.FromSlash(s.Header))
	}
	result, err := ecc.Compile(ctx, options)
	closeErr := writeFailed(d.Close())
	if err != nil {
		return none, d.explain(s, err)
	}
	if closeErr != nil {
		return none, closeErr
	}
	pkg, err := readFile(filepath.Join(out, manifest.PackageFile), manifest.MaxPackageSize)
	if err != nil {
		return none, fmt.Errorf("build %s: %w", s.Spec.Name, err)
	}
	made := Compiled{Platform: platform, Package: pkg, Facts: result.Build}
	if t.BTFHub != "" {
		if made.BTF, err = manifest.PackBTF(result.BTF, o.Created); err != nil {
			return none, fmt.Errorf("build %s: %w", s.Spec.Name, err)
		}
	}
	return made, nil
}
