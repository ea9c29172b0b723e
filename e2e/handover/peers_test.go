// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	protocol "github.com/ebpm/ebpm/deployer/ecli/handover"
	"github.com/ebpm/ebpm/manifest"
)

// A stranger speaks to an instance what it likes.
type stranger struct{ *net.UnixConn }

func dial(t testing.TB, dir string) stranger {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return stranger{c}
}

// say sends a message of a kind with files; what it says of their number is its own.
func (s stranger) say(kind string, body any, count int, files ...int) {
	data, err := json.Marshal(map[string]any{"kind": kind, "body": body, "files": count})
	if err != nil {
		panic(err)
	}
	s.raw(data, files...)
}

func (s stranger) raw(data []byte, files ...int) {
	_ = s.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, _, _ = s.WriteMsgUnix(data, unix.UnixRights(files...), nil) // a peer may have hung up
}

// hear returns the kind and body of the next message, and its files; the kind is
// empty at the end.
func (s stranger) hear(t testing.TB) (kind string, body json.RawMessage, files []int) {
	t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	data, oob := make([]byte, 1<<20), make([]byte, unix.CmsgSpace(4*253))
	n, oobn, _, _, err := s.ReadMsgUnix(data, oob)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("nothing is said")
	}
	if n <= 0 {
		return "", nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		some, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, some...)
	}
	t.Cleanup(func() {
		for _, fd := range files {
			_ = unix.Close(fd)
		}
	})
	var m struct {
		Kind  string
		Body  json.RawMessage
		Files int
	}
	if err := json.Unmarshal(data[:n], &m); err != nil {
		t.Fatal(err)
	}
	return m.Kind, m.Body, files
}

func devNull(t testing.TB) int {
	t.Helper()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return int(f.Fd())
}

func many(fd, n int) []int {
	files := make([]int, n)
	for i := range files {
		files[i] = fd
	}
	return files
}

// garbage is a sealed file as a package travels in.
func garbage(t testing.TB) int {
	t.Helper()
	fd, err := unix.MemfdCreate("package", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.Write(fd, bytes.Repeat([]byte("garbage"), 1000)); err != nil {
		t.Fatal(err)
	}
	return fd
}

// hello is what a new instance says first, of a revision that is higher than all.
var hello = map[string]any{"protocol": protocol.Protocol, "revision": uint64(1) << 62}

// TestHostileNew: an instance hands over to one that does not do its part, and loses
// nothing; then a good one comes.
func TestHostileNew(t *testing.T) {
	for name, attack := range map[string]func(*testing.T, stranger){
		"hangs up": func(*testing.T, stranger) {},
		"nonsense": func(_ *testing.T, s stranger) { s.raw([]byte("\x00\xff{")) },
		"too long": func(_ *testing.T, s stranger) { s.raw(bytes.Repeat([]byte("x"), 150<<10)) },
		"no hello": func(_ *testing.T, s stranger) { s.say("go", map[string]any{}, 0) },
		"too many": func(t *testing.T, s stranger) { s.say("hello", hello, 250, many(devNull(t), 250)...) },
		"old": func(t *testing.T, s stranger) {
			s.say("hello", map[string]any{"protocol": 1, "revision": 0}, 0)
			s.hear(t)
		},
		"no answer": func(t *testing.T, s stranger) { s.say("hello", hello, 0); s.hear(t) },
		"says done": func(t *testing.T, s stranger) {
			s.say("hello", hello, 0)
			s.hear(t)
			s.say("done", map[string]any{}, 0)
			if kind, _, _ := s.hear(t); kind != "refuse" {
				t.Errorf("it says %q to what it did not ask for", kind)
			}
		},
		"wrong files": func(t *testing.T, s stranger) {
			ready(t, s, many(devNull(t), 4)...)
		},
		"no files": func(t *testing.T, s stranger) {
			ready(t, s)
		},
		"a garbled package": func(t *testing.T, s stranger) {
			ready(t, s, garbage(t), devNull(t), devNull(t), devNull(t))
		},
		"its own files": func(t *testing.T, s stranger) {
			s.say("hello", hello, 0)
			_, _, files := s.hear(t)
			// The cell where slots belong, slots where a link does.
			s.say("ready", readyBody, 4, files[0], files[1], files[2], files[1])
			if kind, _, _ := s.hear(t); kind != "refuse" {
				t.Errorf("it says %q to a cell in place of slots", kind)
			}
		},
		"a link that is none": func(t *testing.T, s stranger) {
			s.say("hello", hello, 0)
			_, body, files := s.hear(t)
			s.say("ready", readyBody, 4, files[0], files[2], devNull(t), bufferOf(t, body, files))
			if kind, _, _ := s.hear(t); kind != "refuse" {
				t.Errorf("it says %q to a file in place of a link", kind)
			}
		},
		"the other one's buffer": func(t *testing.T, s stranger) {
			s.say("hello", hello, 0)
			_, body, files := s.hear(t)
			s.say("ready", map[string]any{"parts": []any{}, "buffers": []string{"records"}, "carried": []string{}, "reset": []string{}}, 2, files[0], bufferOf(t, body, files))
			if kind, _, _ := s.hear(t); kind != "refuse" {
				t.Errorf("it says %q to its own buffer", kind)
			}
		},
		"dies after go": func(t *testing.T, s stranger) {
			s.say("hello", hello, 0)
			_, _, files := s.hear(t)
			// The package is the other one's own, so all is in order.
			s.say("ready", map[string]any{"parts": []any{}, "buffers": []string{"records"}, "carried": []string{}, "reset": []string{}}, 2, files[0], buffer(t))
			if kind, _, _ := s.hear(t); kind != "go" {
				t.Errorf("it says %q", kind)
			}
			s.say("nonsense", nil, 0)
			s.raw([]byte("more nonsense"))
		},
		"moves and dies": func(t *testing.T, s stranger) {
			s.say("hello", hello, 0)
			_, _, files := s.hear(t)
			s.say("ready", map[string]any{"parts": []any{}, "buffers": []string{"records"}, "carried": []string{}, "reset": []string{}}, 2, files[0], buffer(t))
			s.hear(t)
			s.say("flipped", map[string]any{}, 0)
			if kind, _, _ := s.hear(t); kind != "drained" {
				t.Errorf("it says %q", kind)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTally(t)
			r := newRelease(t, c)
			good := r.start(t, v1(t))
			good.waitRole(manifest.RoleCurrent)
			l := startLoad(t, c, killRate, allHooks)
			s := dial(t, r.dir)
			attack(t, s)
			_ = s.Close()
			next := r.start(t, v2(t))
			next.waitRole(manifest.RoleCurrent)
			l.end()
			c.caughtUp(l)
			good.end()
			next.end()
			c.check(t, l)
		})
	}
}

var readyBody = map[string]any{
	"parts":   []any{map[string]any{"name": "by_x", "key": "k", "links": 1}},
	"buffers": []string{"records"}, "carried": []string{}, "reset": []string{},
}

// ready says hello and ready with these files, and wants to be refused.
func ready(t *testing.T, s stranger, files ...int) {
	t.Helper()
	s.say("hello", hello, 0)
	if kind, _, _ := s.hear(t); kind != "offer" {
		t.Fatalf("it offers nothing but says %q", kind)
	}
	s.say("ready", readyBody, 4, files...)
	if kind, _, _ := s.hear(t); kind != "refuse" {
		t.Errorf("it says %q", kind)
	}
}

// buffer makes an empty ring buffer.
func buffer(t *testing.T) int {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m.FD()
}

// bufferOf finds the ring buffer among the files of an offer.
func bufferOf(t *testing.T, offer json.RawMessage, files []int) int {
	t.Helper()
	var o protocol.Offer
	if err := json.Unmarshal(offer, &o); err != nil {
		t.Fatal(err)
	}
	at := 2
	for _, p := range o.Parts {
		at += 1 + p.Links
	}
	return files[at]
}

// listen answers in the place of an instance.
func listen(t testing.TB, dir string, serve func(stranger)) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			serve(stranger{c})
			_ = c.Close()
		}
	}()
}

// TestHostileOld: a new instance asks one that offers what it cannot have. It ends
// with an error, and holds nothing.
func TestHostileOld(t *testing.T) {
	offer := map[string]any{
		"slot": 0, "parts": []any{map[string]any{"name": "by_tracepoint", "key": "k", "links": 1}},
		"buffers": []string{"records"}, "states": []any{map[string]any{"name": "seen", "layout": "x"}},
	}
	for name, serve := range map[string]func(stranger){
		"nonsense":     func(s stranger) { s.raw([]byte("nonsense")) },
		"wrong files":  func(s stranger) { s.say("offer", offer, 6, many(devNull(t), 6)...) },
		"no files":     func(s stranger) { s.say("offer", offer, 6) },
		"too many":     func(s stranger) { s.say("offer", offer, 6, many(devNull(t), 9)...) },
		"another word": func(s stranger) { s.say("done", map[string]any{}, 0) },
		"a third slot": func(s stranger) { s.say("offer", map[string]any{"slot": 2}, 0) },
		"a no":         func(s stranger) { s.say("refuse", map[string]any{"reason": "no", "protocol": protocol.Protocol}, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			empty := kernelBefore(t)
			r := newRelease(t, newTally(t))
			listen(t, r.dir, func(s stranger) {
				s.hear(t)
				serve(s)
				s.hear(t) // its end
			})
			p := r.start(t, v1(t))
			if !within(20*time.Second, p.ended) {
				t.Fatalf("it does not end\n%s", p.text())
			}
			if p.err == nil || !strings.Contains(p.text(), "Error: ") {
				t.Errorf("it ends with %v\n%s", p.err, p.text())
			}
			t.Log(p.text())
			empty()
		})
	}
}

// TestOtherProtocol: instances that do not understand each other live side by side,
// and hooks that take one program wait.
func TestOtherProtocol(t *testing.T) {
	t.Run("a newer new one", func(t *testing.T) {
		c := newTally(t)
		r := newRelease(t, c)
		old := r.start(t, v1(t))
		old.waitRole(manifest.RoleCurrent)
		s := dial(t, r.dir)
		s.say("hello", map[string]any{"protocol": 2, "revision": uint64(1) << 62, "news": []int{1}}, 0)
		kind, body, _ := s.hear(t)
		var refuse protocol.Refuse
		if err := json.Unmarshal(body, &refuse); err != nil || kind != "refuse" || refuse.Protocol != protocol.Protocol {
			t.Errorf("%s %s", kind, body)
		}
		// It learns of the end by that of the connection.
		old.end()
		if kind, _, _ := s.hear(t); kind != "" {
			t.Errorf("it says %q at its end", kind)
		}
	})
	t.Run("a newer old one", func(t *testing.T) {
		c := newTally(t)
		// The old one holds XDP, and answers by another protocol.
		plain := &release{tally: c}
		old := plain.start(t, v1(t))
		within(20*time.Second, func() bool { return old.attached() || old.ended() })
		r := newRelease(t, c)
		held := make(chan struct{})
		listen(t, r.dir, func(s stranger) {
			s.hear(t)
			s.say("refuse", map[string]any{"reason": "it speaks protocol 2", "protocol": 2, "news": 1}, 0)
			<-held
			if err := os.Remove(filepath.Join(r.dir, "socket")); err != nil {
				t.Error(err)
			}
		})
		p := r.start(t, v2(t))
		p.waitRole(manifest.RoleStale)
		if !strings.Contains(p.text(), "protocol 2") {
			t.Errorf("it says\n%s", p.text())
		}
		old.end()
		close(held)
		p.waitRole(manifest.RoleCurrent)
		p.end()
	})
}

// TestPlainOld: an instance without handovers holds a hook that takes one program.
func TestPlainOld(t *testing.T) {
	c := newTally(t)
	plain := &release{tally: c}
	old := plain.start(t, v1(t))
	if !within(20*time.Second, func() bool { return old.attached() || old.ended() }) || old.ended() {
		t.Fatal(old.text())
	}
	r := newRelease(t, c)
	p := r.start(t, v2(t))
	if !within(20*time.Second, func() bool { return strings.Contains(p.text(), "waiting for its end") || p.ended() }) || p.ended() {
		t.Fatalf("it does not wait\n%s", p.text())
	}
	old.end()
	p.waitRole(manifest.RoleCurrent)
	p.end()
}

// asUser copies ecli and a package where another user can read them, and runs it.
func asUser(t *testing.T, r *release, pkg string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "ecli"), "run", "-j", "--handover", r.dir, pkg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	p := &process{t: t, cmd: cmd, gone: make(chan struct{})}
	out, err := cmd.CombinedOutput()
	p.lines, p.err = []string{string(out)}, err
	close(p.gone)
	return p
}

// TestOtherUser: a process of another user gets nothing, and gives nothing.
func TestOtherUser(t *testing.T) {
	pkg := v1(t)
	for _, dir := range []string{work, bin, filepath.Dir(pkg)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("new", func(t *testing.T) {
		r := newRelease(t, newTally(t))
		old := r.start(t, pkg)
		old.waitRole(manifest.RoleCurrent)
		for _, mode := range []os.FileMode{0o700, 0o777} {
			if err := os.Chmod(r.dir, mode); err != nil {
				t.Fatal(err)
			}
			if p := asUser(t, r, pkg); p.err == nil {
				t.Errorf("mode %o: it takes over\n%s", mode, p.text())
			}
		}
		if old.role() != manifest.RoleCurrent {
			t.Errorf("the old one is %s", old.role())
		}
		old.end()
	})
	t.Run("folder", func(t *testing.T) {
		r := newRelease(t, newTally(t))
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(r.dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		fails(t, r, pkg, "belongs to user 65534")
	})
	t.Run("socket", func(t *testing.T) {
		r := newRelease(t, newTally(t))
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(filepath.Dir(r.dir)), 0o711); err != nil {
			t.Fatal(err)
		}
		listenAs(t, filepath.Join(r.dir, "socket"), 65534)
		fails(t, r, pkg, "runs as user 65534")
	})
}

// listenAs listens on a socket as another user.
func listenAs(t *testing.T, path string, uid int) {
	t.Helper()
	listening := make(chan error)
	go func() {
		lockThread() // it ends with the goroutine: it has another user
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		if errno != 0 {
			listening <- errno
			return
		}
		// The kernel notes who calls listen; as root it was made.
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			_, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
			_, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		}
		if err == nil {
			err = unix.Listen(fd, 8)
		}
		listening <- err
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
}

// fails starts an instance that is to fail with an error that says so.
func fails(t *testing.T, r *release, pkg, want string) *process {
	t.Helper()
	p := r.start(t, pkg)
	if !within(30*time.Second, p.ended) {
		t.Fatalf("it does not end\n%s", p.text())
	}
	if p.err == nil || !strings.Contains(p.text(), want) {
		t.Errorf("want %q, it ends with %v\n%s", want, p.err, p.text())
	}
	return p
}

// TestFolder: a full disk and a folder that nothing can be written to.
func TestFolder(t *testing.T) {
	mount := func(t *testing.T, options string) *release {
		t.Helper()
		r := newRelease(t, newTally(t))
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", r.dir, "tmpfs", 0, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(r.dir, unix.MNT_DETACH) })
		return r
	}
	t.Run("full", func(t *testing.T) {
		empty := kernelBefore(t)
		r := mount(t, "nr_inodes=2,mode=0700")
		fails(t, r, v1(t), "no space left on device")
		empty()
	})
	t.Run("read-only", func(t *testing.T) {
		r := mount(t, "ro,mode=0700")
		fails(t, r, v1(t), "read-only file system")
	})
	t.Run("full at the move", func(t *testing.T) {
		c := newTally(t)
		r := mount(t, "nr_inodes=20,mode=0700")
		r.tally = c
		old := r.start(t, v1(t))
		old.waitRole(manifest.RoleCurrent)
		l := startLoad(t, c, killRate, allHooks)
		for i := range 40 {
			if os.WriteFile(filepath.Join(r.dir, strconv.Itoa(i)), nil, 0o600) != nil {
				break
			}
		}
		p := fails(t, r, v2(t), "no space left on device")
		if p.role() == manifest.RoleCurrent {
			t.Error("it moved")
		}
		// With room again it works.
		if err := os.Remove(filepath.Join(r.dir, "0")); err != nil {
			t.Fatal(err)
		}
		next := r.start(t, v2(t))
		next.waitRole(manifest.RoleCurrent)
		// It is full again: the standby that goes on cannot answer, and goes on all the
		// same.
		old.waitRole(manifest.RoleStandby)
		c.kill()
		next.kill()
		old.waitRole(manifest.RoleCurrent)
		if !within(30*time.Second, func() bool { return strings.Contains(old.text(), "no other instance can take over") }) {
			t.Errorf("it says\n%s", old.text())
		}
		if err := os.Remove(filepath.Join(r.dir, "1")); err != nil {
			t.Fatal(err)
		}
		last := r.start(t, v2(t))
		last.waitRole(manifest.RoleCurrent)
		l.end()
		c.caughtUp(l)
		last.end()
		old.end()
		c.check(t, l)
	})
	t.Run("read-only at the move", func(t *testing.T) {
		c := newTally(t)
		r := mount(t, "mode=0700")
		r.tally = c
		old := r.start(t, v1(t))
		old.waitRole(manifest.RoleCurrent)
		l := startLoad(t, c, killRate, allHooks)
		// The same folder, as a container might have it.
		there := &release{dir: t.TempDir(), tally: c}
		t.Cleanup(func() { _ = unix.Unmount(there.dir, unix.MNT_DETACH) })
		if err := errors.Join(unix.Mount(r.dir, there.dir, "", unix.MS_BIND, ""),
			unix.Mount("", there.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			t.Fatal(err)
		}
		fails(t, there, v2(t), "read-only file system")
		l.end()
		c.caughtUp(l)
		old.end()
		c.check(t, l)
	})
}
