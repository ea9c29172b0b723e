// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/ebpm/ebpm/manifest"
)

// A netInterface is what a package says of the network interface that a program
// is attached to. The zero value is nothing.
type netInterface struct {
	name  string
	index int
}

// loopback is the interface of packages that name none.
const loopback = 1

// parseInterface reads a number or a name. Without one, it is loopback.
func parseInterface(raw json.RawMessage) (netInterface, error) {
	i := netInterface{index: loopback}
	if raw != nil && json.Unmarshal(raw, &i.name) != nil {
		if err := json.Unmarshal(raw, &i.index); err != nil {
			return i, fmt.Errorf("ifindex %s: expected the number or the name of a network interface", raw)
		}
	}
	return i, nil
}

// namedInterface returns the interface of a program for which loopback is not
// meant where nobody names one; choose is the sentence that asks for a name.
func namedInterface(p *plannedProgram, choose string) (*net.Interface, error) {
	raw := p.meta.Extra["ifindex"]
	if raw == nil && p.at.Interface == "" {
		return nil, manifest.WithKind(manifest.KindUsage,
			errors.New("the package does not say on which network interface"), choose+": --attach "+p.name+"=NAME, or --interface NAME for all programs.")
	}
	i, err := parseInterface(raw)
	if err != nil {
		return nil, err
	}
	return i.find(p)
}

// find returns the interface of a program: the one that the user chose, else
// that of the package.
func (i netInterface) find(p *plannedProgram) (*net.Interface, error) {
	if p.at.Interface != "" {
		i.name = p.at.Interface
	}
	var iface *net.Interface
	var err error
	what := fmt.Sprintf("index %d", i.index)
	if i.name != "" {
		what = "name " + i.name
		iface, err = net.InterfaceByName(i.name)
	} else {
		iface, err = net.InterfaceByIndex(i.index)
	}
	if err != nil {
		return nil, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("there is no network interface with the %s here", what),
			"ip link lists them; --attach PROGRAM=NAME chooses one, --interface NAME one for all programs.")
	}
	return iface, nil
}
