// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

func init() {
	registerHook(&hook{
		sections: []string{"lsm_cgroup"},
		check:    checkLSM,
		prepare: func(p *plannedProgram, o *Options) error {
			p.spec.AttachTo = p.target
			return haveBPFLSM(o.Stderr)
		},
		load: func(p *plannedProgram, maps map[string]*ebpf.Map, kernel *btf.Spec) (*ebpf.Program, error) {
			prog, err := loadLSMCgroup(p.spec, maps, kernel)
			if errors.Is(err, unix.EINVAL) && olderThan("6.0") {
				return nil, lacks("lsm_cgroup", "6.0", "CONFIG_CGROUP_BPF")
			}
			return prog, err
		},
		explain: explainLSM,
		attach: func(p *plannedProgram, prog *ebpf.Program, o *Options) (io.Closer, string, error) {
			l, cgroup, err := attachCgroup(p, prog, o)
			if err != nil {
				return nil, "", explainLSM(p, fmt.Errorf("%s: %w", p.target, err))
			}
			return l, p.target + " in " + cgroup, nil
		},
	})
}

// byteOrder is that of this machine, which cilium/ebpf does not know by the name
// of binary.NativeEndian.
var byteOrder = func() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
}()

// loadLSMCgroup loads a program as cilium/ebpf does. That finds the function to
// attach to for the other kinds of LSM programs only, which differ in nothing else.
func loadLSMCgroup(spec *ebpf.ProgramSpec, maps map[string]*ebpf.Map, kernel *btf.Spec) (*ebpf.Program, error) {
	if kernel == nil {
		var err error
		if kernel, err = btf.LoadKernelSpec(); err != nil {
			return nil, err
		}
	}
	var function *btf.Func
	if err := kernel.TypeByName("bpf_lsm_"+spec.AttachTo, &function); err != nil {
		return nil, fmt.Errorf("LSM hook %s: %w: %w", spec.AttachTo, ebpf.ErrNotSupported, err)
	}
	target, err := kernel.TypeID(function)
	if err != nil {
		return nil, err
	}
	spec = spec.Copy()
	var types btf.Builder
	if err := relocate(spec.Instructions, maps, kernel, &types); err != nil {
		return nil, err
	}
	funcs, lines, err := btf.MarshalExtInfos(spec.Instructions, &types)
	if err != nil {
		return nil, fmt.Errorf("describe the program's functions: %w", err)
	}
	attr := progLoadAttr{
		progType: uint32(spec.Type), expectedAttachType: uint32(spec.AttachType), flags: spec.Flags, attachBTFID: uint32(target),
		funcInfoRecSize: btf.FuncInfoSize, funcInfoCnt: uint32(len(funcs)) / btf.FuncInfoSize,
		lineInfoRecSize: btf.LineInfoSize, lineInfoCnt: uint32(len(lines)) / btf.LineInfoSize,
	}
	copy(attr.name[:len(attr.name)-1], spec.Name)
	if !types.Empty() {
		handle, err := btf.NewHandle(&types)
		if err != nil {
			return nil, fmt.Errorf("load the program's types: %w", err)
		}
		defer func() { _ = handle.Close() }()
		attr.btfFD = uint32(handle.FD())
	}
	var code bytes.Buffer
	if err := spec.Instructions.Marshal(&code, byteOrder); err != nil {
		return nil, err
	}
	return attr.load(code.Bytes(), funcs, lines, spec.License)
}

// relocate puts maps into the instructions, and the offsets of the kernel's types.
func relocate(code asm.Instructions, maps map[string]*ebpf.Map, kernel *btf.Spec, types *btf.Builder) error {
	var relos []*btf.CORERelocation
	var at []*asm.Instruction
	for i := range code {
		ins := &code[i]
		if relo := btf.CORERelocationMetadata(ins); relo != nil {
			relos, at = append(relos, relo), append(at, ins)
		}
		if !ins.IsLoadFromMap() || ins.Reference() == "" {
			continue
		}
		m := maps[ins.Reference()]
		if m == nil {
			return fmt.Errorf("map %s: the object has none of that name", ins.Reference())
		}
		if err := ins.AssociateMap(m); err != nil {
			return fmt.Errorf("map %s: %w", ins.Reference(), err)
		}
	}
	if len(relos) == 0 {
		return nil
	}
	fixups, err := btf.CORERelocate(relos, []*btf.Spec{kernel}, byteOrder, types.Add)
	if err != nil {
		return fmt.Errorf("apply CO-RE relocations: %w", err)
	}
	for i, fixup := range fixups {
		if err := fixup.Apply(at[i]); err != nil {
			return fmt.Errorf("apply CO-RE relocations: %s: %w", relos[i], err)
		}
	}
	return nil
}

// progLoadAttr is union bpf_attr for BPF_PROG_LOAD, linux/bpf.h, as of Linux 5.11.
type progLoadAttr struct {
	progType, insnCnt                uint32
	insns, license                   uint64
	logLevel, logSize                uint32
	logBuf                           uint64
	kernVersion, flags               uint32
	name                             [unix.BPF_OBJ_NAME_LEN]byte
	ifindex, expectedAttachType      uint32
	btfFD, funcInfoRecSize           uint32
	funcInfo                         uint64
	funcInfoCnt, lineInfoRecSize     uint32
	lineInfo                         uint64
	lineInfoCnt, attachBTFID, btfObj uint32
	_                                uint32
}

// maxVerifierLog is the longest log of the verifier that is read.
const maxVerifierLog = 16 << 20

// load loads the program, again with a log if the verifier refuses it.
func (a *progLoadAttr) load(code, funcs, lines []byte, license string) (*ebpf.Program, error) {
	text := append([]byte(license), 0)
	var pin runtime.Pinner
	defer pin.Unpin()
	address := func(b []byte) uint64 {
		if len(b) == 0 {
			return 0
		}
		pin.Pin(&b[0])
		return uint64(uintptr(unsafe.Pointer(&b[0])))
	}
	a.insns, a.insnCnt = address(code), uint32(len(code)/asm.InstructionSize)
	a.license, a.funcInfo, a.lineInfo = address(text), address(funcs), address(lines)
	fd, errno := a.call()
	if errno == 0 {
		return ebpf.NewProgramFromFD(fd)
	}
	log := make([]byte, maxVerifierLog)
	a.logLevel, a.logSize, a.logBuf = 1, uint32(len(log)), address(log)
	if fd, errno = a.call(); errno == 0 {
		return ebpf.NewProgramFromFD(fd)
	}
	if words := strings.TrimSpace(unix.ByteSliceToString(log)); words != "" {
		// This error's text begins with the colon.
		return nil, fmt.Errorf("load program%w", &ebpf.VerifierError{Cause: errno, Log: strings.Split(words, "\n")})
	}
	return nil, fmt.Errorf("load program: %w", errno)
}

func (a *progLoadAttr) call() (int, unix.Errno) {
	for {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
		// The verifier answers EAGAIN when it was interrupted by a signal.
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return int(fd), errno
		}
	}
}
