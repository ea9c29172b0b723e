// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ebpm/ebpm/builder"
	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

// watch runs what is in a source, and moves to a new build with each save, until
// ctx is done. Errors of a build leave the one before it running.
func (s *session) watch(ctx context.Context, path string, anyKernel bool, o ecli.Options) (err error) {
	source, err := builder.ReadSource(path, "")
	if err != nil {
		return err
	}
	f, err := watchFolder(source.Dir)
	if err != nil {
		return err
	}
	defer f.close()
	// Nobody else is to meet the builds.
	if o.Handover, err = os.MkdirTemp("", "ebpm-run-*"); err != nil {
		return fmt.Errorf("make a folder for handovers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Handover)) }()
	o.Header = new(ecli.Header)
	w := &watcher{session: s, path: path, anyKernel: anyKernel, options: o}
	defer func() { err = errors.Join(err, w.current.end()) }()
	for {
		if done, err := w.rebuild(ctx); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-f.failed:
			return err
		case <-f.saved:
		case <-w.current.ended():
			return nil // its error is that of its end
		}
	}
}

// A watcher runs the newest build of a source that works.
type watcher struct {
	*session
	path      string
	anyKernel bool
	options   ecli.Options
	// carry is what a build takes over: as the flags say, else as ebpm.yaml does.
	carry manifest.Carry
	// seen is what was built last, or the error that kept it from being read.
	seen string
	// current is what runs; nil before the first build that works.
	current *build
}

// A build is an instance that runs a package.
type build struct {
	sum    [sha256.Size]byte // of the package
	cancel context.CancelFunc
	// took has the build's word that it is the current one.
	took chan *manifest.Handover
	done chan struct{} // closed at the end
	err  error         // that of the run; to be read after done
}

// end ends b and returns the error of its run.
func (b *build) end() error {
	if b == nil {
		return nil
	}
	b.cancel()
	<-b.done
	return b.err
}

func (b *build) ended() <-chan struct{} {
	if b == nil {
		return nil
	}
	return b.done
}

// rebuild builds what is in the source, where that is new, and moves to it. done is
// true at the end of the watch. Of errors it returns those that no save can mend.
func (w *watcher) rebuild(ctx context.Context) (done bool, err error) {
	pkg, err := w.compile(ctx)
	switch {
	case ctx.Err() != nil:
		return true, nil //nolint:nilerr // The compiler was interrupted.
	case err == nil && pkg == nil:
		return false, nil
	case err == nil:
		done, err = w.move(ctx, pkg)
	}
	if err == nil || done {
		return done, err
	}
	if kind := manifest.KindOf(err); w.current == nil && (kind == manifest.KindPrecondition || kind == manifest.KindUsage) {
		return true, err
	}
	w.complain(err)
	if w.current == nil {
		w.say("waiting for a save in %s", w.path)
	} else {
		w.say("the build before goes on")
	}
	return false, nil
}

// compile returns the package of the source; nil is that of a source which was
// built, or which could not be read for the same reason.
func (w *watcher) compile(ctx context.Context) (*manifest.Package, error) {
	source, err := builder.ReadSource(w.path, "")
	var packed []byte
	if err == nil {
		packed, err = builder.PackSource(source, time.Time{})
	}
	sum := sha256.Sum256(packed)
	seen := string(sum[:])
	if err != nil {
		seen = err.Error()
	}
	if seen == w.seen {
		return nil, nil //nolint:nilnil // There is nothing to build, which is no error.
	}
	w.seen = seen
	if err != nil {
		return nil, err
	}
	w.progress("compiling %s", w.path)
	pkg, err := builder.Compile(ctx, source, builder.Toolchain{}, w.err)
	if err != nil {
		return nil, err
	}
	if err := checkKernel(source.Spec.Requires); err != nil && !w.anyKernel {
		return nil, err
	}
	if w.carry = w.options.Carry; !w.carry.All && w.carry.Maps == nil {
		w.carry = source.Spec.Carry
	}
	return pkg, nil
}

// move starts a build and, once it has taken over, ends the one before. done is
// true when nothing runs any more.
func (w *watcher) move(ctx context.Context, pkg *manifest.Package) (done bool, err error) {
	encoded, err := pkg.Encode()
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(encoded)
	if w.current != nil && w.current.sum == sum {
		w.say("this is the build that runs")
		return false, nil
	}
	next := w.start(pkg)
	next.sum = sum
	select {
	case h := <-next.took:
		old := w.current
		w.current = next
		if err := old.end(); err != nil {
			w.say("warning: the build before: %v", err)
		}
		if old != nil {
			w.say("%s", moveText(h))
		}
		return false, nil
	case <-next.done:
		// Without an error it had no more to do than to print its help.
		return next.err == nil, next.err
	case <-w.current.ended():
	case <-ctx.Done():
	}
	// First the one that has not arrived: the other one goes on until then.
	return true, next.end()
}

// start runs a package beside the one that runs, from which it takes over.
func (w *watcher) start(pkg *manifest.Package) *build {
	// A signal ends the builds one after the other, not in the middle of a move.
	ctx, cancel := context.WithCancel(context.Background())
	b := &build{cancel: cancel, took: make(chan *manifest.Handover, 1), done: make(chan struct{})}
	o := w.options
	o.Package, o.Carry, o.Revision = pkg, w.carry, uint64(time.Now().UnixNano())
	o.Status = func(st manifest.Status) {
		// Before Linux 5.15 there are no handovers, and no roles.
		if st.Event == manifest.StatusAttached || st.Handover != nil && st.Handover.Role == manifest.RoleCurrent {
			select {
			case b.took <- st.Handover:
			default: // it is known
			}
		}
	}
	go func() {
		defer close(b.done)
		defer cancel()
		b.err = ecli.Run(ctx, o)
	}()
	return b
}

// moveText says how a build took over; h is nil where it did not.
func moveText(h *manifest.Handover) string {
	if h == nil {
		return "the new build runs; its maps started empty"
	}
	text := fmt.Sprintf("the new build runs, after %.0f ms (%s)", h.Milliseconds, h.Way)
	if len(h.Carried) > 0 {
		text += "; kept: " + strings.Join(h.Carried, ", ")
	}
	if len(h.Reset) > 0 {
		text += "; empty: " + strings.Join(h.Reset, ", ")
	}
	return text
}
