// SPDX-License-Identifier: Apache-2.0

package handover

import "context"

// stepped tells of each step of a host, before and after it.
type stepped struct {
	Host
	step func(string)
}

// do does one step.
func (s stepped) do(name string, f func() error) error {
	s.step("before " + name)
	defer s.step("after " + name)
	return f()
}

func (s stepped) Start(ctx context.Context) error {
	return s.do("start", func() error { return s.Host.Start(ctx) })
}

func (s stepped) Offer() (o Offer, files []int, err error) {
	err = s.do("offer", func() (err error) { o, files, err = s.Host.Offer(); return err })
	return o, files, err
}

func (s stepped) Prepare(ctx context.Context, o Offer, files []int) (r Ready, mine []int, err error) {
	err = s.do("prepare", func() (err error) { r, mine, err = s.Host.Prepare(ctx, o, files); return err })
	return r, mine, err
}

func (s stepped) Keep(r Ready, files []int) error {
	return s.do("keep", func() error { return s.Host.Keep(r, files) })
}

func (s stepped) Flip(own bool) error {
	return s.do("flip", func() error { return s.Host.Flip(own) })
}

func (s stepped) Grace() error     { return s.do("grace", s.Host.Grace) }
func (s stepped) Drain() error     { return s.do("drain", s.Host.Drain) }
func (s stepped) Resume() error    { return s.do("resume", s.Host.Resume) }
func (s stepped) DrainPeer() error { return s.do("drain the peer", s.Host.DrainPeer) }
func (s stepped) DropPeer() error  { return s.do("drop the peer", s.Host.DropPeer) }
func (s stepped) Release() error   { return s.do("release", s.Host.Release) }
