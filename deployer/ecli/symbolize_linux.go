// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// loadPatience is how long an event waits for the symbols of a file, or of
	// the kernel, that are read for the first time. It is less than
	// [stuckTimeout], and the map has room for what comes meanwhile.
	loadPatience = 2 * time.Second
	// maxLoads bounds how many files are read at the same time: a file of a
	// hanging file system is read for ever.
	maxLoads = 4
	// kernelInterval is the least time between two readings of the kernel's
	// symbols, which grow with modules and programs.
	kernelInterval = 30 * time.Second
	// processInterval is how long the mappings of a process are believed without
	// a reason to look again.
	processInterval = 5 * time.Second
	// minGap and maxGap bound the time between two readings of the mappings of a
	// process when an address is in none of them.
	minGap, maxGap = 10 * time.Millisecond, time.Second
	maxProcesses   = 2048
	// maxFiles and maxCachedSymbols bound the files that are held open, and the
	// symbols of them that are kept, at 24 bytes each.
	maxFiles         = 256
	maxCachedSymbols = 1 << 20
)

// A symbolizer is the [resolver] of the running kernel and its processes. One
// goroutine uses it.
type symbolizer struct {
	root     string // where the node's files are, "" is here
	reporter *reporter

	kernelList    *kernelSymbols
	kernelLoading *pending[*kernelSymbols]
	kernelRead    time.Time

	foreign   bool // the numbers of processes are not those that events have
	checked   bool
	processes map[uint64]*process
	files     map[fileID]*mappedFile
	loads     map[fileID]*pending[*mappedFile]
	vdso      *mappedFile
	vdsoSize  uint64 // in bytes
	// cached is the number of symbols of files.
	cached int
	// clock counts the uses of processes and files.
	clock uint64
}

// A pending value is read in the background.
type pending[T any] struct {
	result chan loaded[T]
	// late is true when it was waited for in vain.
	late bool
}

type loaded[T any] struct {
	value T
	err   error
}

func inBackground[T any](read func() (T, error)) *pending[T] {
	l := &pending[T]{result: make(chan loaded[T], 1)}
	go func() {
		value, err := read()
		l.result <- loaded[T]{value, err}
	}()
	return l
}

// await waits for l for a while, the first time.
func (l *pending[T]) await(patience time.Duration) (r loaded[T], done bool) {
	select {
	case r = <-l.result:
		return r, true
	default:
	}
	if l.late || patience == 0 {
		return r, false
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r = <-l.result:
		return r, true
	case <-timer.C:
		l.late = true
		return r, false
	}
}

// A process is what is known of the mappings of a process.
type process struct {
	pid      uint64
	comm     string
	mappings []mapping
	// files has the file of each mapping, nil where it was not asked for.
	files []*mappedFile
	read  time.Time
	gap   time.Duration
	used  uint64
}

// A mappedFile is a file that processes have mapped. It is held open, so that
// the kernel gives its number to no other file.
type mappedFile struct {
	*elfSymbols
	file  *os.File
	stamp fileStamp
	used  uint64
	// evicted is true when it is not in the cache any more.
	evicted bool
}

// A fileStamp changes with the content of a file.
type fileStamp struct {
	size int64
	time unix.Timespec
}

func newSymbolizer(root string, r *reporter) *symbolizer {
	return &symbolizer{
		root: root, reporter: r,
		processes: map[uint64]*process{}, files: map[fileID]*mappedFile{}, loads: map[fileID]*pending[*mappedFile]{},
	}
}

func (s *symbolizer) close() {
	for id := range s.files {
		s.evict(id)
	}
}

func (s *symbolizer) loadKernel() {
	s.kernelRead = time.Now()
	s.kernelLoading = inBackground(func() (*kernelSymbols, error) {
		f, err := os.Open("/proc/kallsyms")
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		return readKallsyms(f)
	})
}

func (s *symbolizer) kernel(address uint64) place {
	if s.kernelList == nil && s.kernelLoading == nil {
		s.loadKernel()
	}
	if s.kernelLoading != nil {
		patience := loadPatience
		if s.kernelList != nil {
			patience = 0 // they are there, but for some
		}
		if r, done := s.kernelLoading.await(patience); done {
			s.kernelLoading = nil
			s.takeKernel(r)
		}
	}
	if s.kernelList == nil {
		return place{}
	}
	p := s.kernelList.find(address)
	if p.symbol == "" && !s.kernelList.hidden && address>>63 == 1 && s.kernelLoading == nil && time.Since(s.kernelRead) > kernelInterval {
		s.loadKernel()
	}
	return p
}

func (s *symbolizer) takeKernel(r loaded[*kernelSymbols]) {
	first := s.kernelList == nil
	switch {
	case r.err == nil:
		s.kernelList = r.value
		if first && r.value.hidden {
			s.reporter.warn("stacks of the kernel have no symbols: it shows its addresses only to processes with CAP_SYSLOG, and to none where kernel.kptr_restrict is 2")
		}
	case first:
		s.kernelList = &kernelSymbols{hidden: true}
		s.reporter.warn(fmt.Sprintf("stacks of the kernel have no symbols: read /proc/kallsyms: %v", r.err))
	}
}

// initialPIDNamespace is PROC_PID_INIT_INO of linux/proc_ns.h.
const initialPIDNamespace = 0xEFFFFFFC

// checkNamespace finds out whether this process sees others by the numbers that
// events have, which are those of the initial PID namespace.
func (s *symbolizer) checkNamespace() {
	s.checked = true
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err == nil && st.Ino != initialPIDNamespace {
		s.foreign = true
		s.reporter.warn("stacks of processes have no symbols: this runner is in a PID namespace of its own, and events have the numbers of the node's (a Pod needs hostPID)")
	}
}

func (s *symbolizer) process(pid uint64, comm []byte) func(uint64) place {
	if !s.checked {
		s.checkNamespace()
	}
	if s.foreign || pid == 0 {
		return unknown
	}
	p := s.processes[pid]
	now := time.Now()
	switch {
	case p == nil:
		s.makeRoom()
		p = &process{pid: pid, comm: string(comm)}
		s.processes[pid] = p
		p.refresh(now)
	case p.comm != string(comm) && now.Sub(p.read) > maxGap, now.Sub(p.read) > processInterval:
		// Another name may be another program: execve(2) keeps the number.
		p.comm = string(comm)
		p.refresh(now)
	}
	s.clock++
	p.used = s.clock
	return func(address uint64) place { return s.find(p, address) }
}

// makeRoom forgets the process that was not asked for for the longest time when
// there are too many.
func (s *symbolizer) makeRoom() {
	if len(s.processes) < maxProcesses {
		return
	}
	var oldest *process
	for _, p := range s.processes {
		if oldest == nil || p.used < oldest.used {
			oldest = p
		}
	}
	delete(s.processes, oldest.pid)
}

// refresh reads the mappings of p. Those of a process that is gone stay: its
// last events may still be on their way.
func (p *process) refresh(now time.Time) {
	p.read = now
	f, err := os.Open(p.path("maps"))
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	mappings, err := readMappings(f)
	if err != nil || len(mappings) == 0 {
		return
	}
	files := make([]*mappedFile, len(mappings))
	for i := range mappings {
		if old := findMapping(p.mappings, mappings[i].start); old >= 0 && p.mappings[old] == mappings[i] && p.files[old] != noFile {
			files[i] = p.files[old]
		}
	}
	p.mappings, p.files = mappings, files
}

func (p *process) path(name string) string {
	return "/proc/" + strconv.FormatUint(p.pid, 10) + "/" + name
}

func (s *symbolizer) find(p *process, address uint64) place {
	i := findMapping(p.mappings, address)
	if i < 0 {
		// A library may have been loaded since. Stacks also hold what is no
		// address at all, which must not cost a reading each.
		now := time.Now()
		if p.gap = max(p.gap, minGap); now.Sub(p.read) < p.gap {
			return place{}
		}
		p.refresh(now)
		if i = findMapping(p.mappings, address); i < 0 {
			p.gap = min(2*p.gap, maxGap)
			return place{}
		}
		p.gap = minGap
	}
	m := &p.mappings[i]
	f := p.files[i]
	if f == nil || f.evicted {
		f = s.file(p, m)
		p.files[i] = f
	}
	offset := address - m.start + m.offset
	at := place{file: m.file != fileID{}, fileOffset: offset}
	if f != nil {
		s.clock++
		f.used = s.clock
		if f.elfSymbols != nil {
			at = f.find(offset)
		}
	}
	at.module = m.path
	return at
}

// noFile is the file of mappings that have none that can be read.
var noFile = &mappedFile{}

// file returns the file of a mapping, and nil while it is being read.
func (s *symbolizer) file(p *process, m *mapping) *mappedFile {
	if m.path == vdsoPath {
		return s.vdsoFile(m)
	}
	if (m.file == fileID{}) {
		return noFile
	}
	if f := s.files[m.file]; f != nil {
		if stamp, err := stampOf(f.file); err == nil && stamp == f.stamp {
			return f
		}
		s.evict(m.file)
	}
	l := s.loads[m.file]
	if l == nil {
		if s.collect(); len(s.loads) >= maxLoads {
			return nil
		}
		path, root, mapped := p.path(""), s.root, *m
		l = inBackground(func() (*mappedFile, error) { return openMapped(path, root, mapped) })
		s.loads[m.file] = l
	}
	patience := loadPatience
	for _, other := range s.loads {
		if other.late {
			patience = 0 // whatever hangs holds events up once
		}
	}
	r, done := l.await(patience)
	if !done {
		return nil
	}
	return s.take(m.file, r)
}

// collect takes in what was read while nobody waited for it.
func (s *symbolizer) collect() {
	for id, l := range s.loads {
		if r, done := l.await(0); done {
			s.take(id, r)
		}
	}
}

func (s *symbolizer) take(id fileID, r loaded[*mappedFile]) *mappedFile {
	delete(s.loads, id)
	if r.err != nil {
		return noFile
	}
	f := r.value
	s.cached += len(f.symbols)
	for len(s.files) > 0 && (s.cached > maxCachedSymbols || len(s.files) >= maxFiles) {
		var oldest fileID
		for id, f := range s.files {
			if o := s.files[oldest]; o == nil || f.used < o.used {
				oldest = id
			}
		}
		s.evict(oldest)
	}
	s.files[id] = f
	s.clock++
	f.used = s.clock
	return f
}

func (s *symbolizer) evict(id fileID) {
	f := s.files[id]
	delete(s.files, id)
	s.cached -= len(f.symbols)
	f.evicted = true
	_ = f.file.Close() // it was only read
}

// openMapped opens the file of a mapping of the process whose folder in /proc is
// given, and reads its symbols.
func openMapped(process, root string, m mapping) (*mappedFile, error) {
	f, err := findMappedFile(process, root, m)
	if err != nil {
		return nil, err
	}
	stamp, err := stampOf(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	symbols, err := readSymbols(f)
	if err != nil {
		// What is no ELF file, or a broken one, is so for every process.
		symbols = &elfSymbols{file: f, known: map[uint32]string{}}
	}
	return &mappedFile{elfSymbols: symbols, file: f, stamp: stamp}, nil
}

// findMappedFile opens the file of a mapping by whichever of its paths leads to
// it: the kernel's own link (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE), the root
// that the process has (CAP_SYS_PTRACE), or, when the process has ended, the
// node's.
func findMappedFile(process, root string, m mapping) (*os.File, error) {
	candidates := []func() (*os.File, error){
		func() (*os.File, error) {
			return openIn("", fmt.Sprintf("%smap_files/%x-%x", process, m.start, m.end), 0)
		},
		func() (*os.File, error) { return openIn(process+"root", m.path, 0) },
		func() (*os.File, error) { return openIn("", process+"exe", 0) },
		func() (*os.File, error) { return openIn(root, m.path, 0) },
	}
	var errs []error
	for _, open := range candidates {
		f, err := open()
		if err == nil {
			if err = isMapped(f, process, m); err == nil {
				return f, nil
			}
			_ = f.Close()
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

var errOtherFile = errors.New("another file has its path")

// isMapped checks that f is what a mapping is of: it has the number of the file,
// or, on file systems that give their files other numbers than those of the
// kernel's list (overlayfs, btrfs), the bytes that the process has in memory.
func isMapped(f *os.File, process string, m mapping) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if (fileID{unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino}) == m.file {
		return nil
	}
	memory, err := os.Open(process + "mem")
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }() // it was only read
	size := min(m.end-m.start, uint64(os.Getpagesize()))
	there, here := make([]byte, size), make([]byte, size)
	if _, err := memory.ReadAt(there, int64(m.start)); err != nil {
		return err
	}
	n, err := f.ReadAt(here, int64(m.offset))
	// Behind the end of a file its last page is of zeroes.
	if n == 0 || string(there) != string(here) {
		return errors.Join(errOtherFile, err)
	}
	return nil
}

func stampOf(f *os.File) (fileStamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileStamp{}, err
	}
	return fileStamp{st.Size, st.Mtim}, nil
}
