// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"freplace"},
		check: func(p *plannedProgram) error {
			if p.target == "" {
				return errors.New(`it names no function; write SEC("freplace/FUNCTION")`)
			}
			_, err := replacedProgram(p)
			return err
		},
		prepare: prepareFreplace,
		attach: func(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
			l, err := link.AttachFreplace(nil, "", prog)
			if errors.Is(err, unix.EBUSY) {
				return nil, "", manifest.WithKind(manifest.KindConflict, fmt.Errorf("function %s is replaced already: %w", p.target, err),
					"bpftool link shows it; end whatever replaced it.")
			}
			if err != nil {
				return nil, "", fmt.Errorf("function %s: %w", p.target, err)
			}
			return l, p.target, nil
		},
	})
}

// replacedProgram returns what the user chose, else what the package says in
// "target": the name or the id of the program that has the function.
func replacedProgram(p *plannedProgram) (string, error) {
	if p.at.Loaded != "" {
		return p.at.Loaded, nil
	}
	raw := p.meta.Extra["target"]
	if raw == nil {
		return "", manifest.WithKind(manifest.KindUsage, errors.New("it does not say which loaded program has the function"),
			"Name it by its name or id as in bpftool prog: --attach "+p.name+"=NAME, or in a comment above the program: /// @target NAME.")
	}
	var name string
	var id uint32
	if json.Unmarshal(raw, &name) == nil && name != "" {
		return name, nil
	}
	if err := json.Unmarshal(raw, &id); err != nil || id == 0 {
		return "", fmt.Errorf("target %s: expected the name or the id of a loaded program", raw)
	}
	return strconv.FormatUint(uint64(id), 10), nil
}

// prepareFreplace finds the program whose function is replaced. The verifier
// needs it when the new function is loaded.
func prepareFreplace(p *plannedProgram, _ *Options) error {
	if err := needProgramType(p, "5.6"); err != nil {
		return err
	}
	name, err := replacedProgram(p)
	if err != nil {
		return err
	}
	prog, err := findLoadedProgram(name)
	if err != nil {
		return err
	}
	p.spec.AttachTarget = prog
	info, err := prog.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	p.target = fmt.Sprintf("%s of %s (id %d)", p.target, info.Name, id)
	return nil
}

// maxObjectName is what the kernel keeps of a program's name. The whole name is
// in the program's BTF, if it has any.
const maxObjectName = unix.BPF_OBJ_NAME_LEN - 1

// findLoadedProgram returns the one program of a name or an id.
func findLoadedProgram(name string) (*ebpf.Program, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("open the program with the id %d: %w", id, err), openProgramAdvice)
		}
		return prog, nil
	}
	short := name[:min(len(name), maxObjectName)]
	var found *ebpf.Program
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		var prog *ebpf.Program
		if err == nil {
			id = next
			prog, err = ebpf.NewProgramFromID(id)
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // it is gone
		}
		if err != nil {
			return nil, errors.Join(manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("look for the program %s: %w", name, err), openProgramAdvice), found.Close())
		}
		info, err := prog.Info()
		if err != nil || info.Name != name && info.Name != short {
			_ = prog.Close()
			continue
		}
		if found != nil {
			return nil, manifest.WithKind(manifest.KindConflict, errors.Join(fmt.Errorf("several loaded programs have the name %s", name), prog.Close(), found.Close()),
				"Name the program by its id, which bpftool prog shows.")
		}
		found = prog
	}
	if found == nil {
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("no loaded program has the name %s", name), "bpftool prog lists them.")
	}
	return found, nil
}

const openProgramAdvice = "bpftool prog lists loaded programs; to open another's, this process needs CAP_SYS_ADMIN."
