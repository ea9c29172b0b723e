// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// kernelBTF is where a kernel with CONFIG_DEBUG_INFO_BTF (Linux 5.4) shows its
	// types.
	kernelBTF = "/sys/kernel/btf/vmlinux"
	// btfFileEnv names a file with the kernel's BTF; it goes before the kernel's
	// own.
	btfFileEnv  = "BTF_FILE_PATH"
	noBTFAdvice = "This kernel does not show its types: it needs CONFIG_DEBUG_INFO_BTF (" + kernelBTF + "), or " +
		btfFileEnv + " names a file with them, or the package is built with them (ebpm build --btfgen). " +
		"No package can bring what tp_btf, fentry, fexit, LSM and iterators need: the kernel must be built with its types."

	osReleaseFile    = "/etc/os-release"
	maxOSReleaseSize = 64 << 10
)

// kernelTypes returns the types that programs are relocated against; nil is the
// kernel's own.
//
// With OptionalBTF, a file that BTF_FILE_PATH names and that is not there is passed by
// where the kernel shows its types.
func kernelTypes(o *Options) (*btf.Spec, error) {
	path := os.Getenv(btfFileEnv)
	if path != "" {
		types, err := btf.LoadSpec(path)
		if err == nil {
			return types, nil
		}
		if !o.OptionalBTF || !errors.Is(err, fs.ErrNotExist) || !KernelHasBTF() && o.KernelBTF == nil {
			return nil, manifest.WithKind(manifest.KindPrecondition,
				fmt.Errorf("read the kernel's BTF from %s: %w", path, err),
				fmt.Sprintf("%s names a file with raw BTF, or an ELF file that has a section .BTF.", btfFileEnv))
		}
	}
	if o.KernelBTF == nil || KernelHasBTF() {
		return nil, nil
	}
	types, err := btf.LoadSpecFromReader(bytes.NewReader(o.KernelBTF))
	if err != nil {
		return nil, manifest.WithKind(manifest.KindUnverified, fmt.Errorf("read the types of this kernel: %w", err), "")
	}
	return types, nil
}

// KernelHasBTF reports whether the running kernel shows its types.
func KernelHasBTF() bool {
	_, err := os.Stat(kernelBTF)
	return err == nil
}

// RunningKernel says which kernel runs. Its distribution is that of this
// system, unless container says that this may be another than the kernel's.
func RunningKernel(container bool) (manifest.Kernel, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return manifest.Kernel{}, fmt.Errorf("uname: %w", err)
	}
	k := manifest.Kernel{
		Release: unix.ByteSliceToString(name.Release[:]),
		Version: unix.ByteSliceToString(name.Version[:]),
		Machine: unix.ByteSliceToString(name.Machine[:]),
	}
	if container {
		return k, nil
	}
	file, err := os.Open(osReleaseFile)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	defer file.Close()
	text, err := manifest.ReadBounded(file, maxOSReleaseSize)
	if err != nil {
		return k, fmt.Errorf("%s: %w", osReleaseFile, err)
	}
	k.ID, k.VersionID = manifest.ParseOSRelease(text)
	return k, nil
}
