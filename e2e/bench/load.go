// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	// benchDirFD is BENCH_DIRFD of testdata/load.h.
	benchDirFD = -7771
	// benchPath has a tilde, which nothing else has that the contenders print.
	benchPath = "/run/~bench/load"
	// counterMap is the map of testdata/load.bpf.c that counts events.
	counterMap = "bench_counter"
)

// makeEvents makes one event by each of n calls, which fail.
func makeEvents(n int) {
	for range n {
		_, _ = unix.Openat(benchDirFD, benchPath, unix.O_RDONLY, 0)
	}
}

// load makes rate events a second on all processors for d, as many as can be
// where rate is 0, and returns how many it made.
func load(ctx context.Context, rate int, d time.Duration) uint64 {
	const step = time.Millisecond
	threads := runtime.NumCPU()
	var made atomic.Uint64
	var wg sync.WaitGroup
	start := time.Now()
	for range threads {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			own := 0
			for ctx.Err() == nil {
				elapsed := min(time.Since(start), d)
				n := 256
				if rate != 0 {
					n = int(float64(rate)/float64(threads)*elapsed.Seconds()) - own
				}
				makeEvents(n)
				own += n
				if elapsed == d {
					break
				}
				if rate != 0 {
					time.Sleep(step)
				}
			}
			made.Add(uint64(own))
		})
	}
	wg.Wait()
	return made.Load()
}

// findCounter returns the map that counts the events of the only package of this
// bench that is loaded.
func findCounter() (_ *ebpf.Map, err error) {
	var found *ebpf.Map
	defer func() {
		if err != nil && found != nil {
			_ = found.Close()
		}
	}()
	for id := ebpf.MapID(0); ; {
		id, err = ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list maps: %w", err)
		}
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // it went away
		}
		if err != nil {
			return nil, fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil || info.Name != counterMap {
			_ = m.Close()
			continue
		}
		if found != nil {
			_ = m.Close()
			return nil, fmt.Errorf("there are two maps %s: does another bench run?", counterMap)
		}
		found = m
	}
	if found == nil {
		return nil, fmt.Errorf("there is no map %s", counterMap)
	}
	return found, nil
}

// counted sums what the processors counted.
func counted(m *ebpf.Map) (uint64, error) {
	var perCPU []uint64
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read map %s: %w", counterMap, err)
	}
	sum := uint64(0)
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// cpuTime returns what all threads of a process have used so far.
func cpuTime(pid int) (time.Duration, error) {
	// The clock of a process, as clock_getcpuclockid(3) makes it.
	const perProcessSched = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|perProcessSched), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// resident returns how many bytes of a process are in memory.
func resident(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
