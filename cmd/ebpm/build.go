// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/builder"
	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
)

func (s *session) buildCommand() *cli.Command {
	return &cli.Command{
		Name:      "build",
		Category:  categoryMake,
		Usage:     "compile a source into a package",
		ArgsUsage: "FOLDER|FILE.bpf.c [HEADER]",
		Description: "On this machine the package lands in the local store (ebpm push ships it); in a\n" +
			"cluster a Job compiles it and pushes it to the registry.\n\n" +
			"Examples:\n" +
			"  ebpm build examples/opensnoop -t opensnoop:1.0.0\n" +
			"  ebpm build examples/opensnoop -t opensnoop:1.0.0 --builder kubernetes\n" +
			"  ebpm build opensnoop.bpf.c opensnoop.h -t oci:./out:1.0.0\n" +
			"  ebpm build examples/opensnoop -t opensnoop:1.0.0 --platform linux/amd64,linux/arm64",
		Flags: append(contextFlags(),
			&cli.StringFlag{Name: "tag", Aliases: []string{"t"}, Usage: "the `REFERENCE` of the package"},
			&cli.StringFlag{Name: "builder", Value: "auto", Usage: "`WHERE` to compile: auto, local or kubernetes", EnvVars: []string{"EBPM_BUILDER"}},
			&cli.StringSliceFlag{Name: "platform", Usage: "the `PLATFORMS` to compile for, as linux/amd64,linux/arm64 or one a flag (default: that of the machine that compiles)"},
			&cli.StringFlag{Name: "vmlinux", Usage: "a vmlinux.h `FILE` (default: the one that ebpm ships); local builds only"},
			&cli.BoolFlag{Name: "btfgen", Usage: "add the types of kernels that do not show them (CONFIG_DEBUG_INFO_BTF); needs bpftool; local builds only"},
			&cli.StringFlag{Name: "btfhub-archive", Usage: "the `FOLDER` of the kernels for --btfgen (default: that of ecc)"},
			&cli.StringFlag{Name: "builder-image", Usage: "the compiler's container `IMAGE`", EnvVars: []string{"EBPM_BUILDER_IMAGE"}},
			&cli.StringFlag{Name: "ecc-image", Usage: "take another `IMAGE` with an ecc in its PATH, such as eunomia-bpf's"},
			&cli.StringFlag{Name: "image", Usage: "the container `IMAGE` that pulls the source and pushes the package", EnvVars: []string{"EBPM_IMAGE"}},
			&cli.StringFlag{Name: "build-namespace", Value: builder.DefaultNamespace, Usage: "the `NAMESPACE` of the Job"},
			&cli.DurationFlag{Name: "timeout", Usage: "how long a build in a cluster may take, as a `DURATION`"},
			outputFlag(),
		),
		Action: s.build,
	}
}

func (s *session) build(c *cli.Context) error {
	args, err := s.positionals(c, 1, 2)
	if err != nil {
		return err
	}
	header := ""
	if len(args) == 2 {
		header = args[1]
	}
	source, err := builder.ReadSource(args[0], header)
	if err != nil {
		return err
	}
	if c.String("tag") == "" {
		return usageError(c, "the package has no reference: -t REFERENCE")
	}
	ref, err := s.reference(c.String("tag"))
	if err != nil {
		return err
	}
	if ref.Tag == "" && source.Spec.Version != "" {
		ref.Tag = manifest.TagOfVersion(source.Spec.Version)
	}
	ref = ref.WithDefaultTag()
	created, err := builder.SourceDateEpoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	platforms, err := manifest.ParsePlatforms(c.StringSlice("platform")...)
	if err != nil {
		return err
	}
	toolchain := builder.Toolchain{Vmlinux: c.String("vmlinux")}
	if c.Bool("btfgen") {
		toolchain.BTFHub = cmp.Or(c.String("btfhub-archive"), ecc.DefaultBTFHub(os.Getenv))
		if toolchain.BTFHub == "" {
			return usageError(c, "--btfgen: name the folder of the btfhub archive with --btfhub-archive")
		}
	} else if c.IsSet("btfhub-archive") {
		return usageError(c, "--btfhub-archive is for --btfgen")
	}
	choice, err := builder.Choose(c.String("builder"), toolchain, s.connectOptions(c).ContextName())
	if err != nil {
		return err
	}
	s.say("building %s: %s", source.Spec.Name, choice.Why)
	options := builder.Options{Ref: ref, Created: created, Platforms: platforms, Diagnostics: s.err, Progress: s.buildProgress()}
	if choice.Builder == builder.OnKubernetes {
		if c.IsSet("vmlinux") {
			return usageError(c, "--vmlinux works with --builder local only")
		}
		if c.Bool("btfgen") {
			return usageError(c, "--btfgen works with --builder local only: the kernels' types are on this machine")
		}
		if c.IsSet("ecc-image") && len(platforms) > 0 {
			return manifest.WithKind(manifest.KindUsage,
				errors.New("--ecc-image and --platform: another ecc compiles for the architecture of its node only"),
				"Leave one of the two out; --builder-image takes an image of ebpm's own compiler.")
		}
		return s.buildInCluster(c, source, options)
	}
	return s.buildHere(c, source, options, toolchain)
}

func (s *session) buildProgress() func(builder.Event) {
	start := time.Now()
	return func(e builder.Event) {
		line := string(e.Step)
		if e.Detail != "" {
			line += ": " + e.Detail
		}
		if e.Done {
			line += ": done"
		}
		s.progress("%6.1fs  %s", time.Since(start).Seconds(), line)
	}
}

func (s *session) buildHere(c *cli.Context, source *builder.Source, o builder.Options, t builder.Toolchain) error {
	artifact, err := builder.Local(c.Context, source, o, t)
	if err != nil {
		return err
	}
	var pinned manifest.Reference
	if o.Ref.Scheme == manifest.SchemeRegistry {
		store, err := s.openStore()
		if err != nil {
			return err
		}
		if pinned, err = store.Put(c.Context, artifact, o.Ref); err != nil {
			return err
		}
	} else {
		client, err := s.client(nil)
		if err != nil {
			return err
		}
		if pinned, err = client.Push(c.Context, artifact, o.Ref); err != nil {
			return err
		}
	}
	platforms := o.Platforms
	if len(platforms) == 0 {
		platforms = []manifest.Platform{manifest.HostPlatform()}
	}
	return s.printPackage(c, pinned, artifact.Size(), platforms...)
}

func (s *session) buildInCluster(c *cli.Context, source *builder.Source, o builder.Options) error {
	image, err := s.image(c)
	if err != nil {
		return err
	}
	eccImage := ""
	for _, candidate := range []string{c.String("ecc-image"), c.String("builder-image"), s.config.BuilderImage, defaultBuilderImage} {
		if candidate != "" {
			eccImage = candidate
			break
		}
	}
	if eccImage == "" {
		return manifest.WithKind(manifest.KindUsage, errors.New("no image of the compiler is known"),
			"Set --builder-image, EBPM_BUILDER_IMAGE or `builderImage:` in the configuration; `make images` builds one.")
	}
	if o.Ref.Scheme != manifest.SchemeRegistry {
		return usageError(c, fmt.Sprintf("%s: a build in a cluster needs a registry that the cluster reaches", o.Ref))
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	client, err := s.client(nil)
	if err != nil {
		return err
	}
	architectures, err := commonArchitectures(
		namedPlatforms{image, s.imagePlatforms(c.Context, client, image)},
		namedPlatforms{eccImage, s.imagePlatforms(c.Context, client, eccImage)})
	if err != nil {
		return err
	}
	host := o.Ref.Registry
	var ca []byte
	if file := s.config.CA[host]; file != "" {
		if ca, err = os.ReadFile(file); err != nil {
			return err
		}
	}
	credentials, err := client.DockerConfig(c.Context, host)
	if err != nil {
		return err
	}
	job := &builder.Kubernetes{
		Client:        cluster.Kubernetes(),
		Namespace:     c.String("build-namespace"),
		Image:         image,
		EccImage:      eccImage,
		Architectures: architectures,
		Registry:      client,
		PlainHTTP:     slices.Contains(s.config.PlainHTTP, host),
		CA:            ca,
		DockerConfig:  credentials,
		Timeout:       c.Duration("timeout"),
	}
	pinned, err := job.Build(c.Context, source, o)
	if err != nil {
		return err
	}
	// What came out of somebody else's compiler is held against its object
	// before anybody is told that it is there.
	index, err := client.Index(c.Context, pinned)
	if err != nil {
		return err
	}
	var size int64
	var platforms []manifest.Platform
	for _, p := range index.Platforms {
		pulled, err := client.Fetch(c.Context, pinned.Pinned(), p.Platform)
		if err != nil {
			return err
		}
		if _, err := verifiedPackage(pulled); err != nil {
			return err
		}
		size += pulled.Size
		platforms = append(platforms, p.Platform)
	}
	if len(o.Platforms) > 0 && !slices.Equal(platforms, o.Platforms) {
		return manifest.WithKind(manifest.KindUnverified, fmt.Errorf("build %s: the package is for %s, asked for were %s", pinned,
			strings.Join(platformNames(platforms), ", "), strings.Join(platformNames(o.Platforms), ", ")), "")
	}
	return s.printPackage(c, pinned, size, platforms...)
}

// namedPlatforms are the platforms of an image, nil where they are not known.
type namedPlatforms struct {
	image     string
	platforms []manifest.Platform
}

// commonArchitectures returns the architectures of nodes that can start all
// images, nil where that is not known of any of them.
func commonArchitectures(images ...namedPlatforms) ([]string, error) {
	var common []string
	var known []string
	for _, i := range images {
		if i.platforms == nil {
			continue
		}
		has := []string{}
		for _, p := range i.platforms {
			if common == nil || slices.Contains(common, p.Architecture) {
				has = append(has, p.Architecture)
			}
		}
		common = has
		known = append(known, fmt.Sprintf("%s is for %s", i.image, strings.Join(platformNames(i.platforms), ", ")))
	}
	if common != nil && len(common) == 0 {
		return nil, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("no node can start the images of a build: %s", strings.Join(known, "; ")), "")
	}
	return common, nil
}
