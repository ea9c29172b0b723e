// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

// asEcliEnv makes the test binary the command, so that signals and exit codes
// can be tested.
const asEcliEnv = "EBPM_TEST_AS_ECLI"

func TestMain(m *testing.M) {
	if os.Getenv(asEcliEnv) != "" {
		if _, err := os.Stat("/sys/kernel/tracing/events"); err != nil {
			mount("tracefs", "/sys/kernel/tracing")
		}
		if os.Getenv(asEcliEnv) == "without BTF" {
			mount("tmpfs", "/sys/kernel/btf")
		}
		if caps, ok := os.LookupEnv(capsEnv); ok {
			keepCaps(caps)
		}
		main()
	}
	os.Exit(m.Run())
}

func mount(fstype, target string) {
	if err := syscall.Mount(fstype, target, fstype, 0, ""); err != nil {
		fmt.Fprintf(os.Stderr, "mount %s: %v\n", target, err)
		os.Exit(100)
	}
}

// command is an ecli that may load programs; tracefs is mounted for it alone
// where it is missing.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test loads eBPF programs: run it as root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asEcliEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	path := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, err := os.ReadFile("testdata/burst.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		args   []string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{"nothing", nil, "", 2, "", "error: Either use subcommand, or directly provide program URL\n\nUsage: ecli [COMMAND_LINE]... [COMMAND]\n\nFor more information, try '--help'.\n"},
		{"run alone", []string{"run"}, "", 2, "", "not provided:\n  <COMMAND_LINE>...\n\nUsage: ecli run [OPTIONS] <COMMAND_LINE>..."},
		{"bad type", []string{"run", "-p", "elf", "x"}, "", 2, "", "invalid value 'elf' for '--prog-type <PROG_TYPE>'"},
		{"help", []string{"--help"}, "", 0, "Usage: ecli [COMMAND_LINE]...", ""},
		{"help command", []string{"help"}, "", 0, "Usage: ecli [COMMAND_LINE]...", ""},
		{"help of push", []string{"help", "push"}, "", 0, "Usage: ecli push", ""},
		{"help of pull", []string{"pull", "--help"}, "", 0, "Usage: ecli pull", ""},
		{"help of ready", []string{"ready", "--help"}, "", 0, "Usage: ecli ready", ""},
		{"help of nothing", []string{"help", "x"}, "", 2, "", "unrecognized subcommand 'x'"},
		{"version", []string{"--version"}, "", 0, "ecli " + manifest.Version + "\n", ""},
		{"help of run", []string{"run", "-j", "-h"}, "", 0, "Usage: ecli run", ""},
		{"unknown option", []string{"run", "-x"}, "", 2, "", "unexpected argument '-x'"},
		{"push", []string{"push", "-u", "x", "r/x"}, "", 2, "", "--password <PASSWORD>\n\nUsage: ecli push [OPTIONS] <IMAGE>"},
		{"push with a prompt, without a terminal", []string{"push", "-i", "r/x"}, "", 1, "", "--prompt needs a terminal"},
		{"no such file", []string{"run", dir + "/nosuch.json"}, "", 1, "", "there is no file "},
		{"no such file, and no path", []string{"run", "nosuch.json"}, "", 1, "", "there is no file nosuch.json\n"},
		{"no such file, of an archive", []string{"run", "nosuch.tar.gz"}, "", 1, "", "there is no file nosuch.tar.gz\n"},
		{"no such file, of a type", []string{"run", "-p", "json", "./nosuch"}, "", 1, "", "there is no file ./nosuch\n"},
		{"below a file", []string{"run", "main.go/x.json"}, "", 1, "", "there is no file main.go/x.json\n"},
		{"neither a file nor a reference", []string{"run", "Some Thing"}, "", 1, "", "there is no file Some Thing, and it is no reference"},
		{"a name of endless length", []string{"run", strings.Repeat("x", 5000)}, "", 1, "", "and it is no reference"},
		{"flag behind --", []string{"run", "--", "-x"}, "", 1, "", "there is no file -x, and it is no reference"},
		{"file URL", []string{"run", "file:///nowhere/package.json"}, "", 1, "", "URL scheme file is not allowed"},
		{"file URL of one slash", []string{"run", "FILE:/nowhere/package.json"}, "", 1, "", "URL scheme file is not allowed"},
		{"other URL", []string{"run", "ftp://h/package.json"}, "", 1, "", "URL scheme ftp is not allowed"},
		{"URL of no type", []string{"run", "http://127.0.0.1:1/package.json?x=1"}, "", 1, "", "does not say which type"},
		{"Wasm by URL", []string{"run", "-p", "wasm", "http://127.0.0.1:1/x"}, "", 1, "", "in a later version"},
		{"URL, strict", []string{"run", "--strict", "http://127.0.0.1:1/x.json"}, "", 1, "", "--strict takes files only"},
		{"reference, strict", []string{"run", "--strict", "r.example/x"}, "", 1, "", "--strict takes files only"},
		{"no type in the name", []string{"run", path("package", string(good))}, "", 1, "", "does not say which type"},
		{"upper case", []string{"run", path("package.JSON", string(good))}, "", 1, "", "does not say which type"},
		{"type against the name", []string{"run", "-p", "json", path("package.tar", string(good)), "-V"}, "", 0, "burst_bpf 0.1.0\n", ""},
		{"folder", []string{"run", dir}, "", 1, "", "is a directory"},
		{"truncated", []string{"run", path("cut.json", string(good[:1000]))}, "", 1, "", "cut.json"},
		{"truncated stdin", []string{"run", "-p", "json", "-"}, "{", 1, "", "read the package standard input"},
		{"stdin without a type", []string{"run", "-"}, string(good), 1, "", "ecli run -p json -"},
		{"wasm", []string{"run", path("app.wasm", "")}, "", 1, "", "will run Wasm modules in a later version"},
		{"wasm by type", []string{"run", "-p", "WASM", "testdata/burst.json"}, "", 1, "", "Wasm module"},
		{"tar", []string{"run", "-p", "tar", "-"}, "no tar", 1, "", "standard input: read tar: "},
		{"tar, strict", []string{"run", "--strict", "-p", "tar", "-"}, "", 1, "", "--strict takes no tar"},
		{"tar from stdin", []string{"run", "-p", "Tar", "-", "-V"}, archiveOf(t, good), 0, "burst_bpf 0.1.0\n", ""},
		{"tar", []string{"run", path("p.tar", archiveOf(t, good)), "-V"}, "", 0, "burst_bpf 0.1.0\n", ""},
		{"compressed tar", []string{path("p.tar.gz", compress(t, archiveOf(t, good))), "-V"}, "", 0, "burst_bpf 0.1.0\n", ""},
		{"compressed tar named tar", []string{path("q.tar", compress(t, archiveOf(t, good))), "-V"}, "", 0, "burst_bpf 0.1.0\n", ""},
		{"tar named json", []string{path("p.json", archiveOf(t, good)), "-V"}, "", 1, "", "p.json: decode package"},
		{"tar of a broken package", []string{path("b.tar", archiveOf(t, good[:1000]))}, "", 1, "", "b.tar: decode package"},
		{"strict", []string{"run", "--strict", path("odd.json", " "+string(good))}, "", 1, "", "odd.json"},
		{"too long", []string{"run", "-p", "json", "-"}, strings.Repeat(" ", manifest.MaxPackageSize+1), 1, "", "read the package standard input: too large"},
		{"help of the program", []string{"run", "testdata/burst.json", "--help"}, "", 0, "Usage: prog [OPTIONS]", ""},
		{"old command line", []string{"testdata/burst.json", "-V"}, "", 0, "burst_bpf 0.1.0\n", ""},
		{"unknown argument of the program", []string{"run", "testdata/burst.json", "-j"}, "", 1, "", "unexpected argument '-j'"},
		{"ready with a flag", []string{"ready", "-x"}, "", 2, "", "path of a socket"},
		{"not ready", []string{"ready", dir + "/no.sock"}, "", 1, "", "not ready"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(tt.args, strings.NewReader(tt.stdin), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) ||
				(code == 0) != (stderr.Len() == 0) || code != 0 && stdout.Len() != 0 {
				t.Errorf("exit %d\nstdout: %s\nstderr: %s", code, stdout.String(), stderr.String())
			}
		})
	}
}

// TestSampledMapAtTheEnd: what a map holds at the end is printed, although its
// interval is not over.
func TestSampledMapAtTheEnd(t *testing.T) {
	data, err := os.ReadFile("testdata/sampled.json")
	if err != nil {
		t.Fatal(err)
	}
	const interval = `"interval":700`
	if !bytes.Contains(data, []byte(interval)) {
		t.Fatal("the package has another interval")
	}
	pkg := filepath.Join(t.TempDir(), "package.json")
	if err := os.WriteFile(pkg, bytes.Replace(data, []byte(interval), []byte(`"interval":3600000`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "ready.sock")
	cmd := command(t, "run", "--ready", socket, pkg)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, socket, &stderr)
	_, _, _ = syscall.Syscall(syscall.SYS_GETPGID, 77150, 0, 0)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
	header, rows, _ := strings.Cut(stdout.String(), "\n")
	if header != "TIME     __U32  HITS   WHO    NS     " || !strings.HasSuffix(rows, ` {"__u32":305419896} {"hits":3,"ns":12345678901,"who":"bob"}`+"\n") {
		t.Errorf("printed\n%s", stdout.String())
	}
}

func TestSignals(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "ready.sock")
			cmd := command(t, "run", "-j", "--ready", socket, "testdata/burst.json")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitReady(t, socket, &stderr)
			_, _, _ = syscall.Syscall(syscall.SYS_GETPGID, 77322, 0, 0)
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, stderr.String())
			}
			if n := strings.Count(stdout.String(), "\n"); n != 3000 {
				t.Errorf("%d lines", n)
			}
			var events []string
			for line := range strings.Lines(stderr.String()) {
				if s, ok := manifest.DecodeStatus([]byte(strings.TrimSpace(line))); ok {
					events = append(events, s.Event)
				}
			}
			if got := strings.Join(events, " "); got != "attached detached" {
				t.Errorf("statuses %q in %s", got, stderr.String())
			}
		})
	}
}

func waitReady(t *testing.T, socket string, stderr *bytes.Buffer) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ecli.CheckReady(socket) != nil; {
		if time.Now().After(end) {
			t.Fatalf("never ready: %s", stderr.String())
		}
		time.Sleep(time.Millisecond)
	}
}

// TestReaderLeaves: like any filter, ecli ends when nobody reads its output.
func TestReaderLeaves(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "ready.sock")
	cmd := command(t, "run", "--ready", socket, "testdata/burst.json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, socket, &stderr)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "TIME     ID") {
		t.Errorf("header %q, %v", line, err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, _ = syscall.Syscall(syscall.SYS_GETPGID, 77322, 0, 0)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
}

func TestTerminationLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	cmd := command(t, "run", "--termination-log", log, "testdata/refused.json")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("got %v", err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{out, data} {
		if !bytes.Contains(text, []byte("program the_program")) || !bytes.Contains(text, []byte("R1 invalid mem access 'scalar'")) {
			t.Errorf("got %s", text)
		}
	}
}

// TestWithoutKernelBTF: the error names both ways to the kernel's types.
func TestWithoutKernelBTF(t *testing.T) {
	cmd := command(t, "run", "testdata/burst.json")
	cmd.Env = append(cmd.Env, asEcliEnv+"=without BTF")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !bytes.Contains(out, []byte("/sys/kernel/btf/vmlinux")) || !bytes.Contains(out, []byte("BTF_FILE_PATH")) {
		t.Errorf("got %v: %s", err, out)
	}
}

// TestWithoutRights runs with the capabilities of a Pod, and without.
func TestWithoutRights(t *testing.T) {
	for _, tt := range []struct {
		pkg  string
		caps []uintptr
		want string // on stderr
	}{
		{"burst", []uintptr{capBPF, capPerfmon}, `"event":"detached"`},
		{"burst", []uintptr{capBPF}, "have the capabilities that the hook needs"},
		{"burst", nil, "have the capabilities that the hook needs"},
		{"xdp", []uintptr{capBPF, capNetAdmin}, "only with CAP_PERFMON"},
		{"xdp", []uintptr{capBPF, capNetAdmin, capPerfmon}, `"event":"detached"`},
	} {
		t.Run(fmt.Sprint(tt.pkg, tt.caps), func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "ready.sock")
			cmd := command(t, "run", "--ready", socket, "testdata/"+tt.pkg+".json")
			cmd.Env = append(cmd.Env, capsEnv+"="+strings.Trim(fmt.Sprint(tt.caps), "[]"))
			cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNET
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			works := strings.HasPrefix(tt.want, `"`)
			if works {
				waitReady(t, socket, &stderr)
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); (err == nil) != works || !strings.Contains(stderr.String(), tt.want) ||
				strings.Contains(stderr.String(), "MEMLOCK") {
				t.Errorf("%v: %s", err, stderr.String())
			}
		})
	}
}

// Numbers of linux/capability.h.
const (
	capNetAdmin = 12
	capPerfmon  = 38
	capBPF      = 39
)

// capsEnv are the capabilities that the command keeps.
const capsEnv = "EBPM_TEST_CAPS"

// keepCaps drops all others and starts this program again, which makes root's
// capabilities those of the bounding set.
func keepCaps(list string) {
	runtime.LockOSThread()
	keep := map[string]bool{}
	for _, c := range strings.Fields(list) {
		keep[c] = true
	}
	for c := 0; c < 64; c++ {
		if !keep[strconv.Itoa(c)] {
			_, _, _ = syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_CAPBSET_DROP, uintptr(c), 0)
		}
	}
	_ = os.Unsetenv(capsEnv)
	fmt.Fprintln(os.Stderr, syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	os.Exit(100)
}

// TestReadsNoMore: a stream without end is read up to the bound only.
func TestReadsNoMore(t *testing.T) {
	in := &endless{}
	if _, err := readProgram(t.Context(), &flags{program: "-", progType: typeJSON}, in, io.Discard); err == nil {
		t.Error("an endless package was read")
	}
	if in.n > 2*manifest.MaxPackageSize {
		t.Errorf("read %d bytes", in.n)
	}
}

type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	e.n += len(p)
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

var _ io.Reader = (*endless)(nil)
