// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// stateDir holds all that a running cluster keeps on disk. Down removes it.
const stateDir = "/var/lib/ebpm-cluster"

// Cluster is the running cluster of this machine.
type Cluster struct {
	// KubeconfigPath is a kubeconfig of an administrator.
	KubeconfigPath string
	// Registry is HOST:PORT of the registry, which speaks plain HTTP.
	Registry string
	// NodeNames are the names of the nodes as Kubernetes knows them.
	NodeNames []string
	// Networks are the addresses in use.
	Networks Networks

	programs *Programs
	dir      string // the state folder
}

// state is what a cluster writes down when it starts: what cannot be found
// again by its name.
type state struct {
	// BootID tells whether the machine was started anew since.
	BootID   string   `json:"bootID"`
	Networks Networks `json:"networks"`
	// Cache and Programs are the built programs that run.
	Cache    string            `json:"cache"`
	Programs map[string]string `json:"programs"`
	// Mounts are the file systems that were missing and that Up mounted.
	Mounts []string `json:"mounts,omitempty"`
	// Sysctls are the values, from before, of the settings that a kubelet
	// changes.
	Sysctls map[string]string `json:"sysctls,omitempty"`
}

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// readState returns the state that an earlier Up left, nil without one.
func readState(dir string) (*state, error) {
	file := filepath.Join(dir, "state.json")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return s, nil
}

func (s *state) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "state.json"), append(data, '\n'))
}

// writeFile replaces a file at once, readable by its owner only.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func newCluster(dir string, s *state) *Cluster {
	return &Cluster{
		KubeconfigPath: filepath.Join(dir, "kubeconfig"),
		Registry:       netip.AddrPortFrom(s.Networks.Host(), registryPort).String(),
		NodeNames:      nodeNames(),
		Networks:       s.Networks,
		programs:       &Programs{cache: s.Cache, keys: s.Programs},
		dir:            dir,
	}
}

// The images that a cluster hands to ebpm.
const (
	// Image is the image with ebpm and ecli, which releases run.
	Image = "ebpm"
	// BuilderImage is the image with clang and ecc, in which Jobs compile.
	BuilderImage = "ebpm-builder"
)

// SetImage notes the reference, by digest, under which an image (Image or
// BuilderImage) was pushed to the cluster's registry; Env then exports it.
func (c *Cluster) SetImage(name, reference string) error {
	if name != Image && name != BuilderImage {
		return fmt.Errorf("note the image %q: not one of %s and %s", name, Image, BuilderImage)
	}
	if !strings.Contains(reference, "@sha256:") {
		return fmt.Errorf("note the image %s: %q has no digest", name, reference)
	}
	return writeFile(c.path(name+"-image"), []byte(reference+"\n"))
}

// ImageReference returns what SetImage noted, "" before.
func (c *Cluster) ImageReference(name string) (string, error) {
	data, err := os.ReadFile(c.path(name + "-image"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the reference of the image %s: %w", name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Env returns the environment, as KEY=VALUE, in which ebpm and kubectl work on
// this cluster. PATH is that of this process with binDirs and the cluster's
// kubectl and ctr in front. The variables of an image that was not pushed yet
// are missing.
func (c *Cluster) Env(binDirs ...string) ([]string, error) {
	path := append(append([]string{}, binDirs...), c.path("bin"))
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		// Asked twice in one shell, PATH does not grow.
		if dir != "" && !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	env := []string{
		"KUBECONFIG=" + c.KubeconfigPath,
		"PATH=" + strings.Join(path, ":"),
		"EBPM_REGISTRY=" + c.Registry,
		"EBPM_PLAIN_HTTP=" + c.Registry,
	}
	for _, image := range []struct{ name, variable string }{{Image, "EBPM_IMAGE"}, {BuilderImage, "EBPM_BUILDER_IMAGE"}} {
		reference, err := c.ImageReference(image.name)
		if err != nil {
			return nil, err
		}
		if reference != "" {
			env = append(env, image.variable+"="+reference)
		}
	}
	return env, nil
}

// Exports renders an environment as lines for a POSIX shell's eval.
func Exports(env []string) string {
	var out strings.Builder
	for _, pair := range env {
		key, value, _ := strings.Cut(pair, "=")
		fmt.Fprintf(&out, "export %s=%s\n", key, shellQuote(value))
	}
	return out.String()
}

// shellQuote quotes a value for a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
