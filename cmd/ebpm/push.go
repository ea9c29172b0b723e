// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/builder"
	"github.com/ebpm/ebpm/manifest"
)

// packageResult is what build, push, pull and tag print of a package.
type packageResult struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	// Size is in bytes, where it is known.
	Size int64 `json:"size,omitempty"`
	// Platforms are those of the package, where they are known.
	Platforms []string `json:"platforms,omitempty"`
}

func (s *session) printPackage(c *cli.Context, ref manifest.Reference, size int64, platforms ...manifest.Platform) error {
	tagged := ref
	tagged.Digest = ""
	value := packageResult{Reference: tagged.String(), Digest: ref.Digest.String(), Size: size, Platforms: platformNames(platforms)}
	r := result{
		value: value,
		names: []string{ref.Pinned().String()},
		table: [][]string{{"REFERENCE", "DIGEST"}, {value.Reference, value.Digest}},
	}
	if len(platforms) > 0 {
		r.wide = [][]string{{"REFERENCE", "DIGEST", "PLATFORMS"}, {value.Reference, value.Digest, strings.Join(value.Platforms, ",")}}
	}
	return s.print(c, r)
}

func platformNames(platforms []manifest.Platform) []string {
	names := []string{}
	for _, p := range platforms {
		names = append(names, p.String())
	}
	return names
}

func (s *session) pushCommand() *cli.Command {
	return &cli.Command{
		Name:      "push",
		Category:  categoryMake,
		Usage:     "push a package of the local store to its registry",
		ArgsUsage: "REF",
		Description: "Example:\n" +
			"  ebpm build examples/opensnoop -t registry.example/opensnoop:1.0.0\n" +
			"  ebpm push registry.example/opensnoop:1.0.0",
		Flags: append(ecliPushFlags(),
			outputFlag(),
			// The last step of a build in a cluster.
			&cli.StringFlag{Name: "built", Hidden: true},
			&cli.StringSliceFlag{Name: "platform", Hidden: true},
			&cli.StringFlag{Name: "source-from", Hidden: true},
			&cli.StringFlag{Name: "source-file", Hidden: true},
			&cli.StringFlag{Name: "digest-file", Hidden: true},
		),
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			if c.IsSet("module") {
				return s.pushModule(c, args[0], c.String("module"))
			}
			ref, err := s.reference(args[0])
			if err != nil {
				return err
			}
			if c.IsSet("built") {
				return s.pushBuilt(c, ref)
			}
			_, client, err := s.storeAndClient()
			if err != nil {
				return err
			}
			pinned, err := client.PushFromStore(c.Context, ref.WithDefaultTag())
			if err != nil {
				return err
			}
			return s.printPackage(c, pinned, 0)
		},
	}
}

// pushBuilt pushes what a Job compiled, together with its source.
func (s *session) pushBuilt(c *cli.Context, target manifest.Reference) error {
	source, err := s.reference(c.String("source-from"))
	if err != nil {
		return err
	}
	created, err := builder.SourceDateEpoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	platforms, err := manifest.ParsePlatforms(c.StringSlice("platform")...)
	if err != nil {
		return err
	}
	client, err := s.client(nil)
	if err != nil {
		return err
	}
	pinned, err := builder.PushPackage(c.Context, client, builder.PushOptions{
		Source:    source,
		File:      c.String("source-file"),
		Built:     c.String("built"),
		Platforms: platforms,
		Target:    target,
		Created:   created,
	})
	if err != nil {
		return err
	}
	if file := c.String("digest-file"); file != "" {
		// The kubelet made the file and reads it; it must keep its inode.
		if err := os.WriteFile(file, []byte(pinned.Digest.String()), 0o644); err != nil {
			return fmt.Errorf("write digest: %w", err)
		}
	}
	return s.printPackage(c, pinned, 0)
}

func (s *session) tagCommand() *cli.Command {
	return &cli.Command{
		Name:      "tag",
		Category:  categoryMake,
		Usage:     "give a package in a registry a further tag",
		ArgsUsage: "REF TAG",
		Flags:     []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 2, 2)
			if err != nil {
				return err
			}
			ref, err := s.reference(args[0])
			if err != nil {
				return err
			}
			client, err := s.client(nil)
			if err != nil {
				return err
			}
			if ref, err = client.Resolve(c.Context, ref.WithDefaultTag()); err != nil {
				return err
			}
			if err := client.Tag(c.Context, ref, args[1]); err != nil {
				return err
			}
			return s.printPackage(c, ref.WithTag(args[1]).WithDigest(ref.Digest), 0)
		},
	}
}
