// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// check refuses targets that no build can have, and a version that the tag
// contradicts, before anything is done.
func (o *Options) check(s *Source) error {
	if o.Ref.Tag == "" || o.Ref.Digest != "" {
		return usage("build %s: the target %s must have a tag and no digest", s.Spec.Name, o.Ref)
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
	c, err := compile(ctx, s, o, t)
	if err != nil {
		return nil, err
	}
	o.tell(Event{Step: StepPush})
	a, err := Assemble(Parts{
		Source:   c.source,
		File:     s.File,
		Package:  c.pkg,
		Facts:    c.facts,
		BTF:      c.btf,
		Platform: manifest.HostPlatform(),
		Tag:      o.Ref.Tag,
		Created:  o.Created,
	})
	if err != nil {
		return nil, err
	}
	o.tell(Event{Step: StepPush, Done: true})
	return a, nil
}

// Compile compiles on this machine for whoever runs the program at once: the
// package has no name and is stored nowhere.
func Compile(ctx context.Context, s *Source, t Toolchain, diagnostics io.Writer) (*manifest.Package, error) {
	c, err := compile(ctx, s, Options{Diagnostics: diagnostics}, t)
	if err != nil {
		return nil, err
	}
	return manifest.DecodePackage(c.pkg)
}

// compiled is what the compiler made of a source.
type compiled struct {
	source []byte // source.tar
	pkg    []byte // package.json
	btf    []byte // btf.tar.gz or nil
	facts  manifest.BuildFacts
}

// compile gives the compiler what is in source.tar, unpacked beside nothing
// else, so that a source that builds here builds everywhere.
func compile(ctx context.Context, s *Source, o Options, t Toolchain) (made *compiled, err error) {
	o.tell(Event{Step: StepSource})
	source, err := PackSource(s, o.Created)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "ebpm-build-*")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", s.Spec.Name, err)
	}
	defer func() {
		if left := os.RemoveAll(tmp); left != nil {
			made, err = nil, errors.Join(err, fmt.Errorf("build %s: remove the scratch folder: %w", s.Spec.Name, left))
		}
	}()
	in, out := filepath.Join(tmp, "source"), filepath.Join(tmp, "out")
	if err := UnpackSource(source, in); err != nil {
		return nil, err
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		return nil, fmt.Errorf("build %s: %w", s.Spec.Name, err)
	}
	o.tell(Event{Step: StepSource, Done: true})

	o.tell(Event{Step: StepCompile})
	d := newDiagnostics(o.Diagnostics, in, s)
	options := ecc.Options{
		Source:      filepath.Join(in, filepath.FromSlash(s.File)),
		Output:      out,
		Clang:       t.Clang,
		LLVMStrip:   t.LLVMStrip,
		Vmlinux:     t.Vmlinux,
		BTFHub:      t.BTFHub,
		Diagnostics: d,
	}
	if s.Header != "" {
		options.Header = filepath.Join(in, filepath.FromSlash(s.Header))
	}
	result, err := ecc.Compile(ctx, options)
	closeErr := writeFailed(d.Close())
	if err != nil {
		return nil, d.explain(s, err)
	}
	if closeErr != nil {
		return nil, closeErr
	}
	pkg, err := readFile(filepath.Join(out, manifest.PackageFile), manifest.MaxPackageSize)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", s.Spec.Name, err)
	}
	made = &compiled{source: source, pkg: pkg, facts: result.Build}
	if t.BTFHub != "" {
		if made.btf, err = manifest.PackBTF(result.BTF, o.Created); err != nil {
			return nil, fmt.Errorf("build %s: %w", s.Spec.Name, err)
		}
	}
	o.tell(Event{Step: StepCompile, Done: true})
	return made, nil
}
