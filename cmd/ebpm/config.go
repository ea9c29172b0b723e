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
		&cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version"},
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
			if err := s.parseConfig(file, data); err != nil {
				return err
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
	if c.Bool("debug") {
		s.log.SetLevel(logrus.DebugLevel)
	}
	return nil
}

func (s *session) parseConfig(file string, data []byte) error {
	err := yaml.UnmarshalStrict(data, &s.config)
	if err != nil && !strictConfig {
		s.say("warning: configuration %s: %v", file, err)
		s.config = config{}
		err = yaml.Unmarshal(data, &s.config)
	}
	return manifest.WithKind(manifest.KindUsage, prefix("read configuration "+file, err), "")
}

func prefix(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// storeFolder is one folder for the whole machine as root, else the user's.
func (s *session) storeFolder() (string, error) {
	switch {
	case s.config.Store != "":
		return s.config.Store, nil
	case os.Geteuid() == 0:
		return "/var/lib/ebpm/store", nil
	case os.Getenv("XDG_DATA_HOME") != "":
		return filepath.Join(os.Getenv("XDG_DATA_HOME"), "ebpm", "store"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", manifest.WithKind(manifest.KindUsage, fmt.Errorf("find the store: %w", err), "Name its folder: --store, EBPM_STORE or `store:` in the configuration.")
	}
	return userStore(home), nil
}

// userStore is the store of the user with that home.
func userStore(home string) string {
	return filepath.Join(home, ".local", "share", "ebpm", "store")
}

// reference reads a reference with the configured default registry.
func (s *session) reference(text string) (manifest.Reference, error) {
	return manifest.ParseReference(text, s.config.Registry)
}

// openStore opens the local store; it is made when it does not exist.
func (s *session) openStore() (*registry.Store, error) {
	folder, err := s.storeFolder()
	if err != nil {
		return nil, err
	}
	store, err := registry.OpenStore(folder)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", folder, err)
	}
	return store, nil
}

// storeAndClient opens the local store and a client that uses it.
func (s *session) storeAndClient() (*registry.Store, *registry.Client, error) {
	store, err := s.openStore()
	if err != nil {
		return nil, nil, err
	}
	client, err := s.client(store)
	return store, client, err
}

// client returns a client of registries; store may be nil.
func (s *session) client(store *registry.Store) (*registry.Client, error) {
	return registry.New(s.registryOptions(store))
}

func (s *session) registryOptions(store *registry.Store) registry.Options {
	return registry.Options{
		PlainHTTP: s.config.PlainHTTP,
		CAFiles:   s.config.CA,
		Store:     store,
		UserAgent: "ebpm/" + manifest.Version,
		Progress: func(e registry.Event) {
			s.log.WithFields(logrus.Fields{"reference": e.Reference, "digest": e.Digest, "type": e.MediaType, "bytes": e.Size}).Debug(e.Kind)
			if e.Err != nil {
				s.say("trying again in %s: %v", e.Wait, e.Err)
			}
		},
		Warn: func(text string) { s.say("warning: %s", text) },
	}
}
