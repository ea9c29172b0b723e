// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"testing"

	"github.com/cilium/ebpf"
)

// TestLoadSpec: what cilium/ebpf reads, stays as it is; weak maps it refuses.
func TestLoadSpec(t *testing.T) {
	strong, _ := inspectPackage(t, "run-probes")
	if same, err := strengthenMaps(strong.Object); err != nil || &same[0] != &strong.Object[0] {
		t.Errorf("an object without weak maps was changed (%v)", err)
	}
	weak, _ := inspectPackage(t, "run-usdt")
	before := bytes.Clone(weak.Object)
	if _, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(weak.Object)); err == nil {
		t.Error("cilium/ebpf reads weak maps: LoadSpec is not needed any more")
	}
	spec, err := LoadSpec(weak.Object)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"__bpf_usdt_specs", "__bpf_usdt_ip_to_spec_id", "events"} {
		if spec.Maps[name] == nil {
			t.Errorf("no map %s", name)
		}
	}
	if !bytes.Equal(weak.Object, before) {
		t.Error("the caller's object was changed")
	}
	for _, cut := range []int{0, 10, 64, len(before) / 2, len(before) - 1} {
		if _, err := LoadSpec(before[:cut]); err == nil {
			t.Errorf("%d of %d bytes were taken", cut, len(before))
		}
	}
}
