// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"bytes"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
	"github.com/ebpm/ebpm/manifest"
)

func TestStatusSaysRoles(t *testing.T) {
	now := time.Now().Add(-75 * time.Hour)
	instance := func(node string, revision int64, h *manifest.Handover, recorded *time.Time) deployer.InstanceStatus {
		return deployer.InstanceStatus{
			Instance: deployer.Instance{Node: node, State: deployer.StateAttached, Revision: revision, Tag: "t", Since: &now},
			Recorded: recorded, Handover: h,
		}
	}
	status := &deployer.Status{Nodes: []deployer.InstanceStatus{
		instance("node1", 1, &manifest.Handover{Role: manifest.RoleStandby}, &now),
		instance("node1", 2, &manifest.Handover{
			Role: manifest.RoleCurrent, Way: manifest.NearExact, Milliseconds: 17.46,
			Carried: []string{"seen", "start"}, Reset: []string{"counts"},
		}, &now),
		instance("node2", 2, &manifest.Handover{Role: manifest.RoleCurrent, Way: manifest.Exact, Milliseconds: 1042}, &now),
		instance("node3", 2, nil, &now), // it takes no part
		instance("node4", 2, nil, nil),  // its log was rotated
		{Instance: deployer.Instance{Node: "node5", State: deployer.StateAbsent}},
	}}
	var out bytes.Buffer
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.String("output", "table", "")
	s := &session{stdio: stdio{out: &out}}
	if err := s.printStatus(cli.NewContext(nil, flags, nil), status); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(out.String(), "\n\n")
	want := `
NODE    STATE      ROLE      REVISION   TAG   RESTARTS   AGE   ATTACHED     LOST   MOVED                 MAPS
node1   attached   standby   1          t     0          3d    0 programs   -      -                     -
node1   attached   current   2          t     0          3d    0 programs   -      near exact, 17.5 ms   carried seen,start; RESET counts
node2   attached   current   2          t     0          3d    0 programs   -      exact, 1042.0 ms      -
node3   attached   -         2          t     0          3d    0 programs   -      -                     -
node4   attached   ?         2          t     0          3d    0 programs   ?      -                     -
node5   absent     -         0                0          -     0 programs   ?      -                     -
`
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), table); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAttachedTo(t *testing.T) {
	for _, tt := range []struct {
		programs []manifest.ProgramStatus
		count    int
		want     string
	}{
		{nil, 0, "-"},
		{[]manifest.ProgramStatus{{Name: "b", Target: "lo"}, {Name: "a", Target: "veth0"}, {Name: "a", Target: "veth1"}}, 2, "a=veth0,veth1 b=lo"},
	} {
		if got := attachedTo(tt.programs); got != tt.want || len(targetsOf(tt.programs)) != tt.count {
			t.Errorf("%v: %d programs, %s", tt.programs, len(targetsOf(tt.programs)), got)
		}
	}
}
