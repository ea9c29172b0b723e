// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"tp", "tracepoint"},
		check: func(p *plannedProgram) error {
			group, name, _ := strings.Cut(p.target, "/")
			if group == "" || name == "" {
				return errors.New(`it names no tracepoint; write SEC("tracepoint/GROUP/NAME")`)
			}
			return nil
		},
		attach: attachTracepoint,
	})
}

func attachTracepoint(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	group, name, _ := strings.Cut(p.target, "/")
	l, err := link.Tracepoint(group, name, prog, nil)
	if err != nil {
		if dir := tracefs(); dir == "" {
			return nil, "", errNoTracefs
		} else if errors.Is(err, os.ErrNotExist) {
			return nil, "", manifest.WithKind(manifest.KindPrecondition,
				fmt.Errorf("this kernel has no tracepoint %s:%s", group, name),
				fmt.Sprintf("The file %s/available_events lists those that there are.", dir))
		}
		return nil, "", err
	}
	return l, group + ":" + name, nil
}

// errNoTracefs is the error of hooks that need tracefs to name an event.
var errNoTracefs = manifest.WithKind(manifest.KindPrecondition,
	errors.New("tracefs is not mounted at /sys/kernel/tracing"),
	"Mount it: mount -t tracefs tracefs /sys/kernel/tracing.")

// tracefs returns where tracefs is mounted, empty if nowhere.
func tracefs() string {
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(dir + "/events"); err == nil {
			return dir
		}
	}
	return ""
}
