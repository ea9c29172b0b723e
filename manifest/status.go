// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"time"
)

// StatusKey is the key of the one-line JSON object in which an instance says
// on stderr how it is: {"ebpm.io/status": {...}}.
const StatusKey = "ebpm.io/status"

// The events of a [Status].
const (
	StatusAttached  = "attached"  // every program is attached
	StatusLost      = "lost"      // events were lost since the record before
	StatusMalformed = "malformed" // events that did not fit their type were left out since the record before
	StatusDetached  = "detached"  // nothing is attached any more
	StatusMoved     = "moved"     // the instance has another role than before; see Handover
	StatusRunning   = "running"   // nothing is new; see StatusInterval
)

// StatusInterval is how many bytes of events an instance prints at most before it
// says again how it is, so that a log of which the beginning was rotated away has a
// record.
const StatusInterval = 256 << 10

// Status is what an instance says about itself at attach, when events did
// not reach the output, now and then among many events, and at its end.
type Status struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	// Kernel is the release of the running kernel, as uname -r prints it.
	Kernel   string          `json:"kernel,omitempty"`
	Programs []ProgramStatus `json:"programs,omitempty"`
	// Lost counts, since the start, the events that did not reach the output,
	// by the name of their map. A map that is not in it was not counted: when a
	// ring buffer is full, the kernel tells the program and nobody else, so that a
	// runner which reads ring buffers alone leaves it nil. Not counted is not 0.
	Lost map[string]uint64 `json:"lost,omitempty"`
	// Malformed counts events that did not fit their type, by map.
	Malformed map[string]uint64 `json:"malformed,omitempty"`
	// Handover is there when the instance takes part in handovers.
	Handover *Handover `json:"handover,omitempty"`
}

// The roles of an instance among those of its release on a node.
const (
	RoleCurrent = "current" // its programs run, and it prints
	RoleStandby = "standby" // it has handed over, and goes on where its successor dies
	RoleStale   = "stale"   // it is older than the current one, and waits for its end
	RoleRetired = "retired" // it has handed over and holds nothing any more
)

// Handover is what an instance says of its role, and of how it came to it.
type Handover struct {
	Role string `json:"role"`
	// Way is the least exact way of a program in the last move; empty if the
	// instance did not take over from another one.
	Way Way `json:"way,omitempty"`
	// Milliseconds from the first word between the two instances until the new
	// one printed; 0 without a move.
	Milliseconds float64 `json:"milliseconds,omitempty"`
	// Carried are the maps whose content was taken over, Reset those that another
	// layout made start empty; sorted.
	Carried []string `json:"carried,omitempty"`
	Reset   []string `json:"reset,omitempty"`
}

// ProgramStatus is one attached program.
type ProgramStatus struct {
	Name string `json:"name"`
	// Section is the ELF section, which says the hook.
	Section string `json:"section"`
	// Target is what the program was attached to, such as eth0.
	Target string `json:"target,omitempty"`
}

// EncodeStatus returns s as the line that an instance prints, without newline.
func EncodeStatus(s Status) ([]byte, error) {
	b, err := json.Marshal(map[string]Status{StatusKey: s})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	return b, nil
}

// DecodeStatus reads a line of an instance's stderr; ok is false when the line
// is something else.
func DecodeStatus(line []byte) (s Status, ok bool) {
	var record map[string]Status
	if len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &record) != nil {
		return Status{}, false
	}
	s, ok = record[StatusKey]
	return s, ok && len(record) == 1
}
