// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"github.com/ebpm/ebpm/manifest"
)

const runningKernelBTF = "/sys/kernel/btf/vmlinux"

// packXZ makes a file of a btfhub archive.
func packXZ(t *testing.T, header tar.Header, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	compressed, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(compressed)
	if header.Typeflag == tar.TypeReg {
		header.Size = int64(len(data))
	}
	err = w.WriteHeader(&header)
	if err == nil && header.Typeflag == tar.TypeReg {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// needBTFGen skips a test where bpftool or the kernel's types are missing.
func needBTFGen(t *testing.T) []byte {
	t.Helper()
	needTools(t)
	if _, err := (&compilation{}).findBpftool(); err != nil {
		t.Skip(err)
	}
	types, err := os.ReadFile(runningKernelBTF)
	if err != nil {
		t.Skip(err)
	}
	return types
}

// TestBTFGen holds the names in the tar of eunomia-bpf's ecc-rs 0.3.4, run on
// 2026-11-23 with --btfgen on an archive like this one.
func TestBTFGen(t *testing.T) {
	types := needBTFGen(t)
	dir := t.TempDir()
	machine := unameMachine(runtime.GOARCH)
	packed := string(packXZ(t, tar.Header{Typeflag: tar.TypeReg, Name: "./6.1.0-ours.btf"}, types))
	writeFile(t, dir, "hub/ourlinux/1/"+machine+"/6.1.0-ours.btf.tar.xz", packed)
	writeFile(t, dir, "hub/ourlinux/1/s390x/6.1.0-ours.btf.tar.xz", "of another architecture, not even read")
	writeFile(t, dir, "hub/.git/x.btf.tar.xz", "")
	writeFile(t, dir, "hub/README.md", "")
	source := writeFile(t, dir, "greeter.bpf.c", `// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
int parent, cpus, state;
SEC("raw_tp/sched_switch")
int on_switch(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	parent = BPF_CORE_READ(task, real_parent, tgid);
	cpus = bpf_core_type_size(struct cpumask);
	if (bpf_core_field_exists(task->no_such_field))
		state = bpf_core_enum_value(enum pid_type, PIDTYPE_TGID);
	return 0;
}
`)
	text := strings.Replace(string(mustRead(t, source)), "char LICENSE", "struct task_struct___other { int no_such_field; } __attribute__((preserve_access_index));\nchar LICENSE", 1)
	text = strings.Replace(text, "task->no_such_field", "((struct task_struct___other *)task)->no_such_field", 1)
	writeFile(t, dir, "greeter.bpf.c", text)
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	var diagnostics bytes.Buffer
	result, err := Compile(t.Context(), Options{Source: source, Output: out, BTFHub: filepath.Join(dir, "hub"), Diagnostics: &diagnostics})
	if err != nil {
		t.Fatalf("%v\n%s", err, &diagnostics)
	}
	names, contents := readTar(t, mustRead(t, filepath.Join(out, "greeter.tar")))
	file := "btfhub-archive/ourlinux/1/" + machine + "/6.1.0-ours.btf"
	want := []string{"./", "btfhub-archive", "btfhub-archive/ourlinux", "btfhub-archive/ourlinux/1", "btfhub-archive/ourlinux/1/" + machine, file, "package.json", "greeter"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names in the tar (-want +got):\n%s", diff)
	}
	for name, on := range map[string]string{"package.json": "package.json", "greeter": "greeter.bpf.o", file: "custom-archive/" + file} {
		if !bytes.Equal(contents[name], mustRead(t, filepath.Join(out, on))) {
			t.Errorf("%s in the tar differs from the file %s", name, on)
		}
	}
	if len(result.BTF) != 1 || !bytes.Equal(result.BTF[0].Data, contents[file]) || "btfhub-archive/"+result.BTF[0].Path != file {
		t.Errorf("result has %d kernels", len(result.BTF))
	}
	if n := len(contents[file]); n == 0 || n > 64<<10 {
		t.Errorf("%d bytes of types are left of %d", n, len(types))
	}
	sameRelocations(t, result.Object, contents[file], types)
}

// sameRelocations holds that a program is relocated alike against the types
// that were picked for it and against all of them, and that it is relocated.
func sameRelocations(t *testing.T, object, picked, all []byte) {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	var relocations []*btf.CORERelocation
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			if r := btf.CORERelocationMetadata(&p.Instructions[i]); r != nil {
				relocations = append(relocations, r)
			}
		}
	}
	if len(relocations) < 4 {
		t.Fatalf("the program has %d relocations", len(relocations))
	}
	var fixups [2][]string
	for i, raw := range [][]byte{picked, all} {
		kernel, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		made, err := btf.CORERelocate(relocations, []*btf.Spec{kernel}, spec.ByteOrder, func(btf.Type) (btf.TypeID, error) { return 0, nil })
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range made {
			fixups[i] = append(fixups[i], f.String())
		}
	}
	if diff := cmp.Diff(fixups[1], fixups[0]); diff != "" {
		t.Errorf("relocations (-all types +picked):\n%s", diff)
	}
}

func readTar(t *testing.T, data []byte) (names []string, contents map[string][]byte) {
	t.Helper()
	contents = map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		if contents[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBTFGenRefuses compiles against archives that cannot be used; nothing may
// be left beside the source.
func TestBTFGenRefuses(t *testing.T) {
	types := needBTFGen(t)
	place := "linux/1/" + unameMachine(runtime.GOARCH) + "/6.1.btf.tar.xz"
	file := func(header tar.Header, data string) func(*testing.T, string) {
		return func(t *testing.T, hub string) { writeFile(t, hub, place, string(packXZ(t, header, []byte(data)))) }
	}
	for _, test := range []struct {
		name string
		hub  func(t *testing.T, hub string)
		want string
		kind manifest.Kind
	}{
		{"missing", func(t *testing.T, hub string) { _ = os.Remove(hub) }, "there is no btfhub archive", manifest.KindPrecondition},
		{"no kernel of this architecture", func(t *testing.T, hub string) { writeFile(t, hub, "linux/1/s390x/6.1.btf.tar.xz", "") }, "no kernel of", manifest.KindPrecondition},
		{"link", func(t *testing.T, hub string) {
			writeFile(t, hub, "linux/1/"+unameMachine(runtime.GOARCH)+"/there", "")
			if err := os.Symlink("/etc/passwd", filepath.Join(hub, place)); err != nil {
				t.Fatal(err)
			}
		}, "is not a file", manifest.KindFailure},
		{"not xz", func(t *testing.T, hub string) { writeFile(t, hub, place, "text") }, place + ": ", manifest.KindFailure},
		{"link in the tar", file(tar.Header{Typeflag: tar.TypeSymlink, Name: "6.1.btf", Linkname: "/etc/passwd"}, ""), "6.1.btf in it is not a file", manifest.KindFailure},
		{"another name in the tar", file(tar.Header{Typeflag: tar.TypeReg, Name: "../../6.2.btf"}, "x"), "../../6.2.btf in it is not the types", manifest.KindFailure},
		{"nothing in the tar", file(tar.Header{Typeflag: tar.TypeDir, Name: "6.1.btf/"}, ""), "no types in it", manifest.KindFailure},
		{"no types", file(tar.Header{Typeflag: tar.TypeReg, Name: "6.1.btf"}, "not BTF"), "min_core_btf", manifest.KindFailure},
		{"one of two", func(t *testing.T, hub string) {
			writeFile(t, hub, strings.Replace(place, "6.1", "6.0", 1), string(packXZ(t, tar.Header{Typeflag: tar.TypeReg, Name: "6.0.btf"}, types)))
			writeFile(t, hub, place, "text")
		}, place + ": ", manifest.KindFailure},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, hub := t.TempDir(), t.TempDir()
			source := writeFile(t, dir, "a.bpf.c", "#include <vmlinux.h>\nint x;\n")
			test.hub(t, hub)
			_, err := Compile(t.Context(), Options{Source: source, BTFHub: hub})
			if err == nil || !strings.Contains(err.Error(), test.want) || manifest.KindOf(err) != test.kind {
				t.Errorf("%v (kind %d), want %q (%d)", err, manifest.KindOf(err), test.want, test.kind)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("left beside the source: %v, %v", entries, err)
			}
		})
	}
	t.Run("without package", func(t *testing.T) {
		source := writeFile(t, t.TempDir(), "a.bpf.c", "")
		if _, err := Compile(t.Context(), Options{Source: source, BTFHub: "hub", NoPackage: true}); err == nil || !strings.Contains(err.Error(), "--no-generate-package-json") {
			t.Error(err)
		}
	})
}

func TestDefaultBTFHub(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "b/eunomia/x", "")
	for _, test := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"EUNOMIA_HOME": "/e", "HOME": "/h"}, "/e/btfhub-archive"},
		{map[string]string{"XDG_DATA_HOME": dir + "/a:" + dir + "/b", "HOME": "/h"}, dir + "/b/eunomia/btfhub-archive"},
		{map[string]string{"XDG_DATA_HOME": dir + "/a", "HOME": "/h"}, ""},
		{map[string]string{"HOME": "/h"}, "/h/.local/share/eunomia/btfhub-archive"},
		{nil, ""},
	} {
		if got := DefaultBTFHub(func(name string) string { return test.env[name] }); got != test.want {
			t.Errorf("%v: %q, want %q", test.env, got, test.want)
		}
	}
}
