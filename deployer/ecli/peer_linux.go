// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// A peer is what this instance holds of another one to be able to go on alone.
type peer struct {
	pkg     int
	buffers map[string]int
}

func (p *peer) close() error {
	errs := []error{unix.Close(p.pkg)}
	for _, fd := range p.buffers {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// A fileList gives out the descriptors that came with a message.
type fileList []int

// take returns the next one, which is the caller's. The message was counted.
func (l *fileList) take() int {
	fd := (*l)[0]
	*l = (*l)[1:]
	return fd
}

func (l *fileList) close() {
	for _, fd := range *l {
		_ = unix.Close(fd)
	}
	*l = nil
}

// peerOutputs print what is in the buffers of the peer, by the peer's own types.
func (g *generation) peerOutputs() (*outputs, error) {
	f := io.NewSectionReader(descriptor(g.peer.pkg), 0, manifest.MaxPackageSize+1)
	data, err := manifest.ReadBounded(f, manifest.MaxPackageSize)
	if err != nil {
		return nil, fmt.Errorf("read its package: %w", err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		return nil, fmt.Errorf("read its package: %w", err)
	}
	spec, err := loadSpec(pkg.Object)
	if err != nil {
		return nil, fmt.Errorf("read its object: %w", err)
	}
	p := &plan{pollTimeout: time.Millisecond, perfBuffer: os.Getpagesize()}
	if err := p.planExports(&pkg.Meta, spec); err != nil {
		return nil, err
	}
	p.exports = slices.DeleteFunc(p.exports, func(e export) bool {
		_, ok := g.peer.buffers[e.mapName]
		return !ok || e.typ != ebpf.RingBuf
	})
	buffers := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range buffers {
			_ = m.Close() // the readers have mapped them
		}
	}()
	for _, e := range p.exports {
		fd, err := unix.FcntlInt(uintptr(g.peer.buffers[e.mapName]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if buffers[e.mapName], err = ebpf.NewMapFromFD(fd); err != nil {
			delete(buffers, e.mapName)
			return nil, fmt.Errorf("map %s: %w", e.mapName, err)
		}
		if err := g.notMine(buffers[e.mapName]); err != nil {
			return nil, fmt.Errorf("map %s: %w", e.mapName, err)
		}
	}
	out, err := newOutputs(p, buffers, g.o, g.reporter)
	if err != nil {
		return nil, err
	}
	out.header = nil
	return out, nil
}

// notMine refuses a buffer of this instance in place of the peer's: with two readers
// its events would be printed twice.
func (g *generation) notMine(theirs *ebpf.Map) error {
	if g.outputs == nil {
		return nil
	}
	for _, name := range g.outputs.rings {
		same, err := sameMap(theirs, g.coll.Maps[name])
		if err != nil {
			return err
		}
		if same {
			return errors.New("it is this instance's own")
		}
	}
	return nil
}

// sameMap reports whether the kernel knows two maps by one id, Linux 4.13.
func sameMap(a, b *ebpf.Map) (bool, error) {
	var ids [2]ebpf.MapID
	for i, m := range []*ebpf.Map{a, b} {
		info, err := m.Info()
		if err != nil {
			return false, err
		}
		id, ok := info.ID()
		if !ok {
			return false, errors.New("the kernel gives it no id")
		}
		ids[i] = id
	}
	return ids[0] == ids[1], nil
}

// A descriptor reads a file at places, and leaves it open.
type descriptor int

func (d descriptor) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(d), p, off)
	switch {
	case err != nil:
		return 0, err
	case n < len(p):
		return n, io.EOF
	}
	return n, nil
}

func (g *generation) DrainPeer() error {
	if g.peer == nil {
		return nil
	}
	out, err := g.peerOutputs()
	if err != nil {
		return fmt.Errorf("read what the other instance left: %w", err)
	}
	done := make(chan error, 1)
	out.finish(false)
	go func() { done <- out.run() }()
	err = out.wait(done)
	return errors.Join(err, out.close())
}
