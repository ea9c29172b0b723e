// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const buildNamespace = "ebpm-build"

// nothingLeft holds that a failed build left no Job, no Pod, no tag.
func nothingLeft(t *testing.T, ref string) {
	t.Helper()
	eventually(t, func() string {
		if left := strings.TrimSpace(kubectl(t, "-n", buildNamespace, "get", "jobs,pods,secrets,configmaps", "-o", "name")); left != "" {
			// Each namespace has this one.
			if left = strings.TrimSpace(strings.ReplaceAll(left, "configmap/kube-root-ca.crt", "")); left != "" {
				return "left in " + buildNamespace + ": " + left
			}
		}
		return ""
	})
	fails(t, nil, 3, []string{ref}, "pull", ref, "-o", t.TempDir())
}

type packageResult struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
}

// A Job and this machine make the same bytes of the same source.
func TestBuildInClusterIsReproducible(t *testing.T) {
	job := decode[packageResult](t, must(t, "build", "examples/opensnoop", "-t", "repro:1.0.0", "--builder", "kubernetes", "-o", "json"))
	elsewhere := copyOpensnoop(t)
	local := decode[packageResult](t, must(t, "build", elsewhere, "-t", "repro:1.0.0", "--builder", "local", "--store", t.TempDir(), "-o", "json"))
	if job.Digest != local.Digest {
		t.Errorf("the Job made %s, this machine %s", job.Digest, local.Digest)
	}
	// The artifact holds source and package; the config says what it needs.
	dir := t.TempDir()
	must(t, "pull", "repro:1.0.0", "-o", dir, "--store", t.TempDir())
	for _, file := range []string{"package.json", "source.tar"} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	if jobs := strings.TrimSpace(kubectl(t, "-n", buildNamespace, "get", "jobs", "-o", "name")); jobs != "" {
		t.Errorf("the Job of a build that is done is still there: %s", jobs)
	}
}

// One node compiles for every platform, and makes the bytes of this machine.
func TestBuildInClusterForPlatforms(t *testing.T) {
	flags := []string{"build", "examples/opensnoop", "-t", "platforms:1.0.0", "--platform", "linux/amd64,linux/arm64", "-o", "json"}
	job := decode[packageResult](t, must(t, append(flags, "--builder", "kubernetes")...))
	local := decode[packageResult](t, must(t, append(flags, "--builder", "local", "--store", t.TempDir())...))
	if job.Digest != local.Digest {
		t.Errorf("the Job made %s, this machine %s", job.Digest, local.Digest)
	}
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		must(t, "pull", "platforms:1.0.0", "--platform", platform, "-o", t.TempDir(), "--store", t.TempDir())
	}
}

func TestBuildErrors(t *testing.T) {
	broken := copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "\te->pid = id >> 32;\n", "\te->nosuch = id >> 32;\n"})
	line := lineOf(t, filepath.Join(broken, "opensnoop.bpf.c"), "nosuch")
	steals := copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "char LICENSE[]", "asm(\".inc\" \"bin \\\"/etc/passwd\\\"\");\nchar LICENSE[]"})
	for _, builder := range []string{"local", "kubernetes"} {
		t.Run(builder, func(t *testing.T) {
			t.Run("does not compile", func(t *testing.T) {
				fails(t, nil, 1, []string{filepath.Join(broken, "opensnoop.bpf.c") + ":" + line, "nosuch"},
					"build", broken, "-t", "broken:1.0.0", "--builder", builder, "--store", t.TempDir())
				nothingLeft(t, "broken:1.0.0")
			})
			t.Run("incbin", func(t *testing.T) {
				fails(t, nil, 1, []string{"incbin", "opensnoop.bpf.c"},
					"build", steals, "-t", "steals:1.0.0", "--builder", builder, "--store", t.TempDir())
				nothingLeft(t, "steals:1.0.0")
			})
		})
	}
	t.Run("no clang", func(t *testing.T) {
		env := withEnv("PATH=" + t.TempDir())
		fails(t, []option{env}, 5, []string{"clang", "apt-get install clang"},
			"build", "examples/opensnoop", "-t", "noclang:1.0.0", "--builder", "local", "--store", t.TempDir())
	})
	t.Run("version and tag differ", func(t *testing.T) {
		fails(t, nil, 2, []string{"1.0.0", "2.0.0"}, "build", copyOpensnoop(t, [3]string{"ebpm.yaml", "name: opensnoop\n", "name: opensnoop\nversion: 1.0.0\n"}), "-t", "opensnoop:2.0.0", "--builder", "local", "--store", t.TempDir())
	})
	t.Run("no registry", func(t *testing.T) {
		fails(t, []option{withEnv("EBPM_REGISTRY=")}, 2, []string{"EBPM_REGISTRY"}, "build", "examples/xdpsyn", "-t", "xdpsyn:1.0.0", "--builder", "local", "--store", t.TempDir())
	})
	t.Run("no such folder", func(t *testing.T) {
		fails(t, nil, 3, []string{"nosuchfolder"}, "build", "nosuchfolder", "-t", "x:1.0.0")
	})
}

func lineOf(t *testing.T, file, word string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(data), word)
	if !ok {
		t.Fatalf("%s has no %q", file, word)
	}
	return strconv.Itoa(strings.Count(before, "\n") + 1)
}

// Ctrl-C during a build takes the Job away and leaves no tag.
func TestInterruptBuild(t *testing.T) {
	cmd := command(t.Context(), nil, "build", "examples/opensnoop", "-t", "halfway:1.0.0", "--builder", "kubernetes")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if strings.Contains(kubectl(t, "-n", buildNamespace, "get", "jobs", "-o", "name"), "job.batch/") {
			return ""
		}
		return "no Job"
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d, want 130: %s", code, stderr.String())
	}
	nothingLeft(t, "halfway:1.0.0")
	// The second try works.
	must(t, "build", "examples/opensnoop", "-t", "halfway:1.0.0", "--builder", "kubernetes")
}

// ebpm run takes a folder, a package.json, a reference; and leaves nothing.
func TestRun(t *testing.T) {
	store := t.TempDir()
	must(t, "build", "examples/opensnoop", "-t", "runme:1.0.0", "--builder", "local", "--store", store)
	files := t.TempDir()
	must(t, "build", "examples/opensnoop", "-t", "oci:"+filepath.Join(files, "layout")+":1.0.0", "--builder", "local")
	must(t, "pull", "oci:"+filepath.Join(files, "layout")+":1.0.0", "-o", files, "--store", t.TempDir())
	for _, word := range []string{"examples/opensnoop", "examples/opensnoop/opensnoop.bpf.c", filepath.Join(files, "package.json"), "runme:1.0.0"} {
		t.Run(filepath.Base(word), func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "mark")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := command(ctx, nil, "run", "--store", store, "--json", word)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			found := make(chan bool)
			go func() {
				seen, once := false, false
				buffer := make([]byte, 1<<20)
				var tail []byte
				for {
					n, err := stdout.Read(buffer)
					tail = append(tail, buffer[:n]...)
					if !seen && bytes.Contains(tail, []byte(mark)) {
						seen = true
					}
					if seen && !once {
						once = true
						found <- true
					}
					if len(tail) > 1<<16 {
						tail = append(tail[:0], tail[len(tail)-1024:]...)
					}
					if err != nil {
						close(found)
						return
					}
				}
			}()
			ok := false
			for tries := 0; !ok && tries < 300; tries++ {
				touch(t, mark)
				select {
				case ok = <-found:
					if !ok {
						t.Fatalf("ebpm run ended: %v\n%s", cmd.Wait(), stderr.String())
					}
				case <-time.After(100 * time.Millisecond):
				}
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			for range found {
				// Until the output ends.
			}
			if err := cmd.Wait(); err != nil || !ok {
				t.Errorf("found %v, end %v\n%s", ok, err, stderr.String())
			}
		})
	}
}
