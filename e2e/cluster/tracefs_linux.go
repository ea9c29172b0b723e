// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// MountTracefs mounts tracefs, in which tracepoints are listed, where the
// machine did not do so when it started. It stays mounted.
func MountTracefs(log io.Writer) error {
	const point = "/sys/kernel/tracing"
	mounted, err := isMountPoint(point)
	if err != nil || mounted {
		return err
	}
	fmt.Fprintf(log, "mount -t tracefs tracefs %s\n", point)
	if err := unix.Mount("tracefs", point, "tracefs", 0, ""); err != nil {
		return fmt.Errorf("mount tracefs at %s: %w", point, err)
	}
	return nil
}
