// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func lockThread() { runtime.LockOSThread() }

// sinkhole keeps the compiler from leaving calls out.
var sinkhole atomic.Uint64

//go:noinline
func probed(which, n uint64) { sinkhole.Store(which + n) }

//go:noinline
func probedSleepable(which, n uint64) { sinkhole.Store(which - n) }

// offsetOf returns where a function is in the file of this process.
func offsetOf(f func(uint64, uint64)) string {
	address := uint64(reflect.ValueOf(f).Pointer())
	file, err := elf.Open("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && address >= p.Vaddr && address < p.Vaddr+p.Filesz {
			return fmt.Sprintf("%#x", address-p.Vaddr+p.Off)
		}
	}
	panic("the file has no such function")
}

// firstThread is FIRST_THREAD of load.bpf.c: tracepoints show the events of other runs of
// these tests, too.
var firstThread = 1_000_000 + 8*os.Getpid()

// firstPort and firstTCPPort are FIRST_PORT and FIRST_TCP_PORT of load.bpf.c.
const firstPort, firstTCPPort = 100, 116

// A load makes numbered events at hooks, on threads of its own.
type load struct {
	t     testing.TB
	hooks []int
	tally *tally
	// rate is of events a second at each hook; 0 is as many as go.
	rate  int
	n     [maxThreads]atomic.Uint32
	stop  chan struct{}
	done  chan struct{}
	begun time.Time
	took  time.Duration
}

// allHooks are those of load.bpf.c, and fastHooks those whose events cost least.
var (
	allHooks  = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}
	fastHooks = []int{0, 1, 2, 11, 12}
)

// window is how many events a thread may be ahead of what is printed: what lies in
// the ring buffers of load.bpf.c must find room there.
const window = 40000

func startLoad(t testing.TB, c *tally, rate int, hooks []int) *load {
	t.Helper()
	l := &load{t: t, hooks: hooks, tally: c, rate: rate, stop: make(chan struct{}), done: make(chan struct{}), begun: time.Now()}
	for thread := range maxThreads {
		go func() {
			defer func() { l.done <- struct{}{} }()
			runtime.LockOSThread() // for good: the thread is bound to a processor
			if err := l.run(thread); err != nil {
				t.Errorf("thread %d of the load: %v", thread, err)
			}
		}()
	}
	t.Cleanup(l.end)
	return l
}

// end stops the load.
func (l *load) end() {
	select {
	case <-l.stop:
		return
	default:
	}
	close(l.stop)
	for range maxThreads {
		<-l.done
	}
	l.took = time.Since(l.begun)
}

func (l *load) sent() []uint32 {
	sent := make([]uint32, maxThreads)
	for i := range sent {
		sent[i] = l.n[i].Load()
	}
	return sent
}

// perSecond is the rate at each hook that there was.
func (l *load) perSecond() float64 {
	var sum float64
	for _, n := range l.sent() {
		sum += float64(n)
	}
	return sum / l.took.Seconds()
}

const batch = 50

func (l *load) run(thread int) error {
	var one unix.CPUSet
	one.Set(thread % runtime.NumCPU())
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	makers := make([]func(uint32) error, 0, len(l.hooks))
	seen := map[string]bool{}
	for _, h := range l.hooks {
		name, make := makerOf(h, thread)
		if seen[name] {
			continue
		}
		seen[name] = true
		m, err := make()
		if err != nil {
			return err
		}
		makers = append(makers, m)
	}
	begun := time.Now()
	for {
		select {
		case <-l.stop:
			return nil
		default:
		}
		n := l.n[thread].Load()
		if l.rate > 0 {
			due := time.Duration(n) * time.Second * time.Duration(maxThreads) / time.Duration(l.rate)
			if d := due - time.Since(begun); d > 0 {
				time.Sleep(d)
			}
		}
		// Who prints may be dead: then the window says nothing.
		for tries := 0; l.tally.behind(thread, l.hooks, n) > window && tries < 100; tries++ {
			time.Sleep(time.Millisecond)
		}
		for range batch {
			n = l.n[thread].Load() + 1
			for _, m := range makers {
				if err := m(n); err != nil {
					return fmt.Errorf("event %d: %w", n, err)
				}
			}
			l.n[thread].Store(n)
		}
	}
}

// makerOf returns what makes the events of a hook, and a name that is equal for
// those of one.
func makerOf(hook, thread int) (string, func() (func(uint32) error, error)) {
	which := uintptr(firstThread + thread)
	switch hook {
	case 0, 1, 2:
		return "getpriority", func() (func(uint32) error, error) {
			return func(n uint32) error {
				_, _, _ = unix.RawSyscall(unix.SYS_GETPRIORITY, which, uintptr(n), 0) // EINVAL
				return nil
			}, nil
		}
	case 3, 17:
		return "probed", func() (func(uint32) error, error) {
			return func(n uint32) error { probed(uint64(which), uint64(n)); return nil }, nil
		}
	case 4, 5, 6:
		return "frame", func() (func(uint32) error, error) { return frames(thread) }
	case 7:
		return "connect", func() (func(uint32) error, error) { return connects(thread) }
	case 8, 9, 15, 16:
		return "datagram", func() (func(uint32) error, error) { return datagrams(thread) }
	case 10:
		return "sysctl", func() (func(uint32) error, error) { return sysctls(thread) }
	case 11:
		return "setsockopt", func() (func(uint32) error, error) { return options(thread) }
	case hookChanged:
		return "setpriority", func() (func(uint32) error, error) {
			return func(n uint32) error {
				_, _, _ = unix.RawSyscall(unix.SYS_SETPRIORITY, which, uintptr(n), 0) // EINVAL
				return nil
			}, nil
		}
	case 14:
		return "TCP", func() (func(uint32) error, error) { return calls(thread), nil }
	case hookSleepable:
		return "probed, sleepable", func() (func(uint32) error, error) {
			return func(n uint32) error { probedSleepable(uint64(which), uint64(n)); return nil }, nil
		}
	}
	panic("no such hook")
}

// frames sends frames. Their number is bound by the socket's buffer, so that none
// is thrown away between the interfaces.
func frames(thread int) (func(uint32) error, error) {
	const etherType = 0x88b5
	to, err := net.InterfaceByName(receiver)
	if err != nil {
		return nil, err
	}
	from, err := net.InterfaceByName(sender)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil { // the least
		return nil, err
	}
	at := &unix.SockaddrLinklayer{Ifindex: from.Index}
	frame := slices.Concat([]byte(to.HardwareAddr), []byte(from.HardwareAddr), binary.BigEndian.AppendUint16(nil, etherType), make([]byte, 50))
	binary.BigEndian.PutUint32(frame[14:], uint32(firstThread+thread))
	return func(n uint32) error {
		binary.BigEndian.PutUint32(frame[18:], n)
		return unix.Sendto(fd, frame, 0, at)
	}, nil
}

// address has the lower 24 bits of n.
func address(n uint32) [4]byte { return [4]byte{127, byte(n >> 16), byte(n >> 8), byte(n)} }

func connects(thread int) (func(uint32) error, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return func(n uint32) error {
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: address(n), Port: (firstPort + thread) << 8})
	}, err
}

// calls asks for connections where nobody listens.
func calls(thread int) func(uint32) error {
	return func(n uint32) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: address(n), Port: (firstTCPPort + thread) << 8}); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("connect: %w", err)
		}
		return unix.Close(fd)
	}
}

// datagrams sends datagrams to a socket that nobody reads.
func datagrams(thread int) (func(uint32) error, error) {
	port := (firstPort + thread) << 8
	to, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(to, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := unix.Bind(to, &unix.SockaddrInet4{Port: port}); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	data := binary.BigEndian.AppendUint32(nil, uint32(firstThread+thread))
	data = append(data, 0, 0, 0, 0)
	return func(n uint32) error {
		binary.BigEndian.PutUint32(data[4:], n)
		return unix.Sendto(fd, data, 0, &unix.SockaddrInet4{Addr: address(n), Port: port})
	}, err
}

// sysctls writes to a number that is this network namespace's own.
func sysctls(thread int) (func(uint32) error, error) {
	f, err := os.OpenFile("/proc/sys/net/core/somaxconn", os.O_WRONLY, 0)
	var text []byte
	return func(n uint32) error {
		text = strconv.AppendUint(text[:0], uint64(n)*8+uint64(thread), 10)
		_, err := unix.Pwrite(int(f.Fd()), text, 0)
		return err
	}, err
}

func options(thread int) (func(uint32) error, error) {
	const level = 0xeb
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return func(n uint32) error {
		// ENOPROTOOPT
		_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), level, uintptr(firstThread+thread), uintptr(unsafe.Pointer(&n)), 4, 0)
		return nil
	}, err
}
