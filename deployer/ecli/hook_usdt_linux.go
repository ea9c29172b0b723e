// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"usdt", "usdt.s"},
		check: func(p *plannedProgram) error {
			_, _, _, err := parseUSDTTarget(p.target)
			return err
		},
		prepare: prepareUprobe,
		attach:  attachUSDT,
	})
}

func attachUSDT(p *plannedProgram, prog *ebpf.Program, o *Options) (io.Closer, string, error) {
	binary, provider, name, err := parseUSDTTarget(p.target)
	if err != nil {
		return nil, "", err
	}
	file, path, err := p.openUserTarget(o, binary)
	if err != nil {
		return nil, "", manifest.WithKind(manifest.KindPrecondition, err, "")
	}
	defer file.Close()
	places, err := usdtPlaces(p, file, provider, name)
	if err != nil {
		advice := cmp.Or(manifest.AdviceOf(err), "readelf -n lists the USDT probes of a program and their arguments.")
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", path, err), advice)
	}
	target := path + ":" + provider + ":" + name
	l, err := places.attach(p, prog)
	if err != nil {
		return nil, "", aboutTarget(target, p.pid, err)
	}
	return l, ofProcess(target, p.pid), nil
}

// usdtPlaces finds the places of a probe and tells the package's maps where
// its arguments are at each.
func usdtPlaces(p *plannedProgram, file *os.File, provider, name string) (*uprobes, error) {
	u := &uprobes{file: file, pid: p.pid}
	return u, withELF(file, func(f *elf.File) error {
		machine, ok := elfMachines[runtime.GOARCH]
		if !ok || f.Machine != machine {
			return fmt.Errorf("it is a program for %s: USDT probes are read on x86-64 and arm64, of programs for the same", f.Machine)
		}
		sites, err := usdtSites(f, provider, name)
		if err != nil {
			return err
		}
		vars := &variables{f, map[string]uint64{}}
		counters, counted := make([]uint64, len(sites)), false
		for i, site := range sites {
			u.offsets = append(u.offsets, site.offset)
			counters[i] = site.semaphore
			counted = counted || site.semaphore != 0
			if p.usdt == nil {
				continue // a program that does not look at the arguments
			}
			if err := u.addArgs(p.usdt, vars, site); err != nil {
				return fmt.Errorf("its USDT probe %s:%s at %#x: %w", provider, name, site.address, err)
			}
		}
		if counted {
			u.counters = counters
		}
		return nil
	})
}

// addArgs tells the package's maps where the arguments are at a place.
func (u *uprobes) addArgs(specs *usdtSpecs, vars *variables, site usdtSite) error {
	args, err := parseUSDTArgs(vars.f.Machine, site.args)
	if err != nil {
		return err
	}
	for i := range args {
		if name := args[i].variable; name != "" {
			address, err := vars.address(name)
			if err != nil {
				return err
			}
			// When the probe is hit, the instruction pointer is at it.
			args[i].value += int64(address - site.address)
		}
	}
	id, err := specs.add(args)
	if err != nil {
		return err
	}
	if specs.cookies {
		u.cookies = append(u.cookies, uint64(id))
		return nil
	}
	address, err := usdtAddress(vars.f, u.file, site, u.pid)
	if err != nil {
		return err
	}
	return specs.addAddress(address, id)
}

// usdtAddress returns the address that a place has in the memory of a process,
// by which programs on kernels without cookies know it.
func usdtAddress(f *elf.File, file *os.File, site usdtSite, pid int) (uint64, error) {
	switch {
	case f.Type == elf.ET_EXEC:
		return site.address, nil
	case pid == 0:
		return 0, errors.New("a library, or a program that may be loaded anywhere, has its probes at other addresses in each process: Linux tells them apart from 5.15 on (cookies of uprobes); before, name one process")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat it: %w", err)
	}
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, fmt.Errorf("read where process %d has it: %w", pid, err)
	}
	defer maps.Close()
	mappings, err := readMappings(maps)
	if err != nil {
		return 0, fmt.Errorf("read where process %d has it: %w", pid, err)
	}
	for _, m := range mappings {
		// The device is left out: for files of overlay and btrfs the kernel
		// tells another one here than to stat.
		if m.file.inode == st.Ino && m.offset <= site.offset && site.offset-m.offset < m.end-m.start {
			return m.start + site.offset - m.offset, nil
		}
	}
	return 0, fmt.Errorf("process %d does not have it in its memory", pid)
}
