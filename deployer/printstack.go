// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// A stackEvent is an event that the runner printed as JSON of a package whose
// events are stacks.
type stackEvent struct {
	Comm   *string      `json:"comm"`
	PID    *json.Number `json:"pid"`
	CPU    *json.Number `json:"cpu_id"`
	Kernel *[]frame     `json:"kernel"`
	User   *[]frame     `json:"user"`
}

// A frame is one address of a stack. Of the members the name of the module is
// shown for modules of the kernel only.
type frame struct {
	Address string `json:"address"`
	Symbol  string `json:"symbol"`
	Offset  uint64 `json:"offset"`
	Module  string `json:"module"`
}

// decodeStack returns the stack that an event is, if it is one.
func decodeStack(event json.RawMessage) (*stackEvent, bool) {
	var s stackEvent
	if err := json.Unmarshal(event, &s); err != nil {
		return nil, false
	}
	if s.Comm == nil || s.PID == nil || s.CPU == nil || s.Kernel == nil || s.User == nil || len(*s.Kernel)+len(*s.User) == 0 {
		return nil, false
	}
	for _, stack := range [][]frame{*s.Kernel, *s.User} {
		for _, f := range stack {
			if _, err := f.address(); err != nil {
				return nil, false
			}
		}
	}
	return &s, true
}

func (f *frame) address() (uint64, error) { return strconv.ParseUint(f.Address, 0, 64) }

// lines returns the stack as the runner prints it as text.
func (s *stackEvent) lines() []string {
	lines := []string{fmt.Sprintf("COMM: %s (pid=%s) @ CPU %s", manifest.TerminalText(*s.Comm, false), *s.PID, *s.CPU)}
	for _, part := range []struct {
		head, none string
		stack      []frame
		modules    bool
	}{{"Kernel:", "No Kernel Stack", *s.Kernel, true}, {"Userspace:", "No Userspace Stack", *s.User, false}} {
		if len(part.stack) == 0 {
			lines = append(lines, part.none)
			continue
		}
		lines = append(lines, part.head)
		for i, f := range part.stack {
			address, _ := f.address() // it was looked at before
			var line strings.Builder
			fmt.Fprintf(&line, "  %d [<%016x>]", i, address)
			if f.Symbol != "" {
				fmt.Fprintf(&line, " %s+0x%x", manifest.TerminalText(f.Symbol, false), f.Offset)
				if part.modules && f.Module != "" {
					fmt.Fprintf(&line, " [%s]", manifest.TerminalText(f.Module, false))
				}
			}
			lines = append(lines, line.String())
		}
	}
	return lines
}
