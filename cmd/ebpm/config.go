// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// config is the configuration file. A flag goes before the environment, that
// before the file.
type config struct {
	// Registry goes in front of references that name none.
	Registry string `json:"registry,omitempty"`
	// PlainHTTP lists the registries, HOST:PORT, that are reached without TLS.
	PlainHTTP []string `json:"plainHTTP,omitempty"`
	// CA maps a registry, HOST:PORT, to the PEM file of its private CA.
	CA map[string]string `json:"ca,omitempty"`
	// Store is the folder of the local store.
	Store string `json:"store,omitempty"`
	// Image and BuilderImage are the container images of Pods and builds.
	Image        string `json:"image,omitempty"`
	BuilderImage string `json:"builderImage,omitempty"`
}

// The images that a release of ebpm is built with, set by the linker:
// -X main.defaultImage=REGISTRY/REPOSITORY@DIGEST.
var defaultImage, defaultBuilderImage string

func (s *session) globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "the configuration `FILE`", EnvVars: []string{"EBPM_CONFIG"}},
		&cli.StringFlag{Name: "registry", Usage: "the `REGISTRY` of references that name none", EnvVars: []string{"EBPM_REGISTRY"}},
		&cli.StringFlag{Name: "plain-http", Usage: "reach these registries without TLS: `HOST:PORT,...`", EnvVars: []string{"EBPM_PLAIN_HTTP"}},
		&cli.StringFlag{Name: "store", Usage: "the `FOLDER` of the local store", EnvVars: []string{"EBPM_STORE"}},
		&cli.BoolFlag{Name: "debug", Usage: "say more about what is done", EnvVars: []string{"EBPM_DEBUG"}},
	}
}

// configure reads the configuration before any command runs.
func (s *session) configure(c *cli.Context) error {
	file := c.String("config")
	explicit := file != ""
	if !explicit {
		dir, err := os.UserConfigDir()
		if err == nil {
			file = filepath.Join(dir, "ebpm", "config.yaml")
		}
	}
	if file != "" {
		data, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !explicit:
		case err != nil:
			return manifest.WithKind(manifest.KindUsage, fmt.Errorf("read configuration: %w", err), "")
		default:
			if err := yaml.UnmarshalStrict(data, &s.config); err != nil {
				return manifest.WithKind(manifest.KindUsage, fmt.Errorf("read configuration %s: %w", file, err), "")
			}
		}
	}
	if v := c.String("registry"); v != "" {
		s.config.Registry = v
	}
	if v := c.String("plain-http"); v != "" {
		s.config.PlainHTTP = strings.Split(v, ",")
	}
	if v := c.String("store"); v != "" {
		s.config.Store = v
	}
	if s.config.Store == "" {
		s.config.Store = defaultStore()
	}
	if c.Bool("debug") {
		s.log.SetLevel(logrus.DebugLevel)
	}
	return nil
}

// defaultStore is one folder for the whole machine as root, else the user's.
func defaultStore() string {
	if os.Geteuid() == 0 {
		return "/var/lib/ebpm/store"
	}
	return filepath.Join(dataHome(os.Getenv("HOME")), "ebpm", "store")
}

func dataHome(home string) string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return dir
	}
	return filepath.Join(home, ".local", "share")
}

// reference reads a reference with the configured default registry.
func (s *session) reference(text string) (manifest.Reference, error) {
	return manifest.ParseReference(text, s.config.Registry)
}

// openStore opens the local store; it is made when it does not exist.
func (s *session) openStore() (*registry.Store, error) {
	store, err := registry.OpenStore(s.config.Store)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.config.Store, err)
	}
	return store, nil
}

// client returns a client of registries; store may be nil.
func (s *session) client(store *registry.Store) (*registry.Client, error) {
	return registry.New(registry.Options{
		PlainHTTP: s.config.PlainHTTP,
		CAFiles:   s.config.CA,
		Store:     store,
		UserAgent: "ebpm/" + manifest.Version,
		Warn:      func(text string) { s.log.Warn(text) },
	})
}
