// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	check := func(p *plannedProgram) error {
		if p.spec.AttachType == ebpf.AttachNone {
			return errors.New(`it does not say when; write SEC("sk_skb/stream_parser"), SEC("sk_skb/stream_verdict") or SEC("sk_skb/verdict")`)
		}
		_, err := sockmapOf(p)
		return err
	}
	registerHook(&hook{sections: []string{"sk_msg"}, check: check, identity: sameSockmap, attach: attachSockmap})
	registerHook(&hook{sections: []string{"sk_skb"}, check: check, identity: sameSockmap, attach: attachSockmap})
}

// sockmapOf returns the name of the map of sockets that a program is attached
// to: the one that the package's "sockmap" says, else the only one of the object.
func sockmapOf(p *plannedProgram) (string, error) {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(p.object.Maps)) {
		if t := p.object.Maps[name].Type; t == ebpf.SockMap || t == ebpf.SockHash {
			all = append(all, name)
		}
	}
	var said string
	if raw := p.meta.Extra["sockmap"]; raw != nil {
		if err := json.Unmarshal(raw, &said); err != nil {
			return "", fmt.Errorf("sockmap %s: expected the name of a map", raw)
		}
	}
	switch {
	case len(all) == 0:
		return "", errors.New("it is attached to a map of sockets, but the object has no map of type BPF_MAP_TYPE_SOCKMAP or BPF_MAP_TYPE_SOCKHASH")
	case said != "" && slices.Contains(all, said):
		return said, nil
	case said != "":
		return "", fmt.Errorf("sockmap %q is no map of sockets of the object, which has %s", said, strings.Join(all, ", "))
	case len(all) > 1:
		return "", fmt.Errorf("the object has several maps of sockets: %s; say which one the program is for, in a comment above it: /// @sockmap %q", strings.Join(all, ", "), all[0])
	}
	return all[0], nil
}

// A sockmapProgram is attached to a map, which is gone with the process.
type sockmapProgram link.RawAttachProgramOptions

func (s *sockmapProgram) Close() error {
	return link.RawDetachProgram(link.RawDetachProgramOptions(*s))
}

// attachSockmap does without a link, which maps of sockets have since Linux 6.10
// only: nothing outlives the map, and nobody else has it.
func attachSockmap(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	name, err := sockmapOf(p)
	if err != nil {
		return nil, "", err
	}
	m := p.maps[name]
	s := &sockmapProgram{Target: m.FD(), Program: prog, Attach: p.spec.AttachType}
	err = link.RawAttachProgram(link.RawAttachProgramOptions(*s))
	if err != nil && p.spec.AttachType == ebpf.AttachSkSKBVerdict && errors.Is(err, unix.EINVAL) {
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("map %s: %w", name, err), "Linux has sk_skb/verdict since 5.13.")
	}
	if err != nil {
		return nil, "", fmt.Errorf("map %s: %w", name, err)
	}
	return s, name, nil
}

// checkSockmaps refuses two programs in one place: the kernel would replace the
// first one without a word.
func checkSockmaps(programs []plannedProgram) error {
	type place struct {
		name string
		at   ebpf.AttachType
	}
	taken := map[place]string{}
	for i := range programs {
		p := &programs[i]
		if p.spec.Type != ebpf.SkMsg && p.spec.Type != ebpf.SkSKB {
			continue
		}
		name, err := sockmapOf(p)
		if err != nil {
			return fmt.Errorf("program %s: %w", p.name, err)
		}
		at := place{name, sockmapPlace(p.spec.AttachType)}
		if other := taken[at]; other != "" {
			return fmt.Errorf("program %s (%s): map %s: another program of the package, %s, is attached to it there, and it takes one", p.name, p.spec.SectionName, name, other)
		}
		taken[at] = p.name
	}
	return nil
}

// sameSockmap tells maps of sockets apart: what another instance attached to its
// own, which is not carried over, sees nothing of this one's.
func sameSockmap(p *plannedProgram, _ *Options) (string, error) {
	name, err := sockmapOf(p)
	if err != nil {
		return "", err
	}
	info, err := p.maps[name].Info()
	if err != nil {
		return "", fmt.Errorf("map %s: %w", name, err)
	}
	id, ok := info.ID()
	if !ok {
		return "", fmt.Errorf("map %s: this kernel does not number maps: Linux does since 4.13", name)
	}
	return fmt.Sprint(id), nil
}

// sockmapPlace is the same for programs that keep each other out: a map has one
// verdict of its streams' bytes.
func sockmapPlace(t ebpf.AttachType) ebpf.AttachType {
	if t == ebpf.AttachSkSKBVerdict {
		return ebpf.AttachSkSKBStreamVerdict
	}
	return t
}
