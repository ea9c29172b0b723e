// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// resetStateFlag allows a move to lose the content of maps.
func resetStateFlag() cli.Flag {
	return &cli.BoolFlag{Name: "reset-state", Usage: "let maps start empty whose layout is another one than before"}
}

// contextFlags choose the cluster, as kubectl's flags of these names do.
func contextFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kubeconfig", Usage: "the `FILE` that describes the cluster (default: as kubectl)"},
		&cli.StringFlag{Name: "context", Usage: "the `CONTEXT` of the kubeconfig"},
	}
}

// clusterFlags choose the cluster and the namespace of releases.
func clusterFlags(more ...cli.Flag) []cli.Flag {
	return append(append(contextFlags(),
		&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the `NAMESPACE` of releases", Value: deployer.DefaultNamespace, EnvVars: []string{"EBPM_NAMESPACE"}},
	), more...)
}

func (s *session) connectOptions(c *cli.Context) deployer.ConnectOptions {
	return deployer.ConnectOptions{
		Kubeconfig: c.String("kubeconfig"),
		Context:    c.String("context"),
		Namespace:  c.String("namespace"),
		Version:    manifest.Version,
	}
}

func (s *session) connect(c *cli.Context) (*deployer.Client, error) {
	return deployer.Connect(s.connectOptions(c))
}

// release is the action of a command that takes one release.
func (s *session) release(do func(c *cli.Context, cluster *deployer.Client, name string) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		args, err := s.positionals(c, 1, 1)
		if err != nil {
			return err
		}
		cluster, err := s.connect(c)
		if err != nil {
			return err
		}
		return do(c, cluster, args[0])
	}
}

// rolloutFlags say how long a command waits for the nodes.
func rolloutFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "wait", Value: true, Usage: "wait until every node runs it (--wait=false does not)"},
		&cli.DurationFlag{Name: "timeout", Value: deployer.DefaultTimeout, Usage: "give up after this `DURATION` without progress"},
		&cli.DurationFlag{Name: "deadline", Usage: "give up after this `DURATION` in total"},
	}
}

func (s *session) rolloutOptions(c *cli.Context) deployer.RolloutOptions {
	start := time.Now()
	return deployer.RolloutOptions{
		NoWait:     !c.Bool("wait"),
		Timeout:    c.Duration("timeout"),
		Deadline:   c.Duration("deadline"),
		KeepFailed: c.Bool("keep-failed"),
		Progress: func(p deployer.Progress) {
			if p.Warning != "" {
				s.say("warning: %s", p.Warning)
			}
			if p.Node == "" {
				return
			}
			line := fmt.Sprintf("%6.1fs  %s: %s", time.Since(start).Seconds(), p.Node, p.State)
			if p.Cause != "" {
				line += ": " + p.Cause
			}
			s.progress("%s (%d/%d attached)", line, p.Attached, p.Desired)
		},
	}
}

func (s *session) deployCommand() *cli.Command {
	return &cli.Command{
		Name:      "deploy",
		Category:  categoryCluster,
		Usage:     "run a package on nodes of a cluster, or move a release to another package",
		ArgsUsage: "REF [-- ARGS...]",
		Description: "Examples:\n" +
			"  ebpm deploy opensnoop:1.0.0 --all            run it on every node\n" +
			"  ebpm deploy opensnoop:1.1.0                  upgrade; the nodes stay\n" +
			"  ebpm deploy xdpsyn:1.0.0 --node node1 --interface eth0\n" +
			"  ebpm deploy xdpsyn:1.0.0 --all --attach report_syns='veth*'\n" +
			"  ebpm deploy opensnoop:1.1.0 -- --failed      with arguments of the program\n\n" +
			attachHelp,
		Flags: append(clusterFlags(
			&cli.StringFlag{Name: "name", Usage: "the `NAME` of the release (default: the last part of the repository)"},
			&cli.BoolFlag{Name: "all", Usage: "run on every Linux node, also those that join later"},
			&cli.StringSliceFlag{Name: "node", Usage: "run on this `NODE`; may be given several times"},
			&cli.StringSliceFlag{Name: "attach", Usage: "attach a program of the package there, as `PROGRAM=TARGET`; an empty TARGET is the package's own again"},
			&cli.StringFlag{Name: "interface", Usage: "the network `INTERFACE` of programs that attach to one (XDP, tc, socket filters)"},
			&cli.StringFlag{Name: "image", Usage: "the runner's container `IMAGE`, by digest", EnvVars: []string{"EBPM_IMAGE"}},
			&cli.StringFlag{Name: "pull-secret", Usage: "the `SECRET` (dockerconfigjson) by which nodes pull the package"},
			&cli.BoolFlag{Name: "ignore-requirements", Usage: "deploy also to kernels that the package says are too old"},
			resetStateFlag(),
			&cli.BoolFlag{Name: "keep-failed", Usage: "keep a first deploy that fails on every node"},
			&cli.StringFlag{Name: "dry-run", Usage: "`MODE` client: print the DaemonSet (-o yaml) and change nothing"},
			outputFlag(),
		), rolloutFlags()...),
		Action: s.deploy,
	}
}

func (s *session) deploy(c *cli.Context) error {
	args, err := s.positionals(c, 1, 1)
	if err != nil {
		return err
	}
	dryRun := c.String("dry-run")
	if dryRun != "" && dryRun != "client" {
		return usageError(c, fmt.Sprintf("--dry-run=%s: only client is supported", dryRun))
	}
	var targets *deployer.Targets
	switch {
	case c.Bool("all") && c.IsSet("node"):
		return usageError(c, "--all and --node exclude each other")
	case c.Bool("all"):
		targets = &deployer.Targets{All: true}
	case c.IsSet("node"):
		targets = &deployer.Targets{Nodes: c.StringSlice("node")}
	}
	attach, err := parseAttach(c)
	if err != nil {
		return err
	}
	ref, err := s.reference(args[0])
	if err != nil {
		return err
	}
	image, err := s.image(c)
	if err != nil {
		return err
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	reg, err := s.client(nil)
	if err != nil {
		return err
	}
	pkg, err := deployer.FetchPackage(c.Context, reg, ref.WithDefaultTag())
	if err != nil {
		return err
	}
	// A typing error is told here, and not by each node. The options of a program
	// are the same on every platform.
	if len(s.tail) > 0 {
		if err := ecli.CheckArgs(pkg.Platforms[0].Meta, s.tail); err != nil {
			return err
		}
	}
	nodeConfig, err := s.nodeConfig()
	if err != nil {
		return err
	}
	plan, err := cluster.PlanDeploy(c.Context, deployer.DeployOptions{
		Name:               c.String("name"),
		Package:            pkg,
		Targets:            targets,
		Args:               s.tail,
		Attach:             attach,
		Interface:          c.String("interface"),
		Image:              image,
		ImagePlatforms:     s.imagePlatforms(c.Context, reg, image),
		PullSecret:         c.String("pull-secret"),
		Registries:         nodeConfig,
		IgnoreRequirements: c.Bool("ignore-requirements"),
		ResetState:         c.Bool("reset-state"),
	})
	if err != nil {
		return err
	}
	for _, skipped := range plan.Skipped {
		s.say("not on %s: %s", skipped.Node, skipped.Why)
	}
	s.notes(plan.Notes)
	for _, change := range plan.Changes {
		s.say("changes %s", change)
	}
	if dryRun != "" {
		return s.printPlan(c, plan)
	}
	result, err := cluster.Deploy(c.Context, plan, s.rolloutOptions(c))
	return s.finishRollout(c, result, err)
}

func (s *session) notes(notes []string) {
	for _, note := range notes {
		s.say("note: %s", note)
	}
}

// image returns the runner's image; there is no default before a release is
// made.
func (s *session) image(c *cli.Context) (string, error) {
	for _, image := range []string{c.String("image"), s.config.Image, defaultImage} {
		if image != "" {
			return image, nil
		}
	}
	return "", manifest.WithKind(manifest.KindUsage, errors.New("no image of the runner is known"),
		"Set --image, EBPM_IMAGE or `image:` in the configuration; `make images` builds one.")
}

// imageTimeout bounds how long a command waits to learn the platforms of an
// image.
const imageTimeout = 3 * time.Second

// imagePlatforms returns the platforms of an image, nil where they cannot be
// told from here: nodes may reach a registry, or have credentials and images,
// that this machine has not.
func (s *session) imagePlatforms(ctx context.Context, reg *registry.Client, image string) []manifest.Platform {
	ctx, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	ref, err := manifest.ParseReference(image, "")
	var platforms []manifest.Platform
	if err == nil {
		platforms, err = reg.ImagePlatforms(ctx, ref)
	}
	if err != nil {
		s.log.Debugf("the platforms of the image are not known: %v", err)
		return nil
	}
	return platforms
}

// nodeConfig is what nodes may have to know about registries.
func (s *session) nodeConfig() (deployer.NodeConfig, error) {
	config := deployer.NodeConfig{PlainHTTP: s.config.PlainHTTP, CAs: map[string][]byte{}}
	for host, file := range s.config.CA {
		pem, err := os.ReadFile(file)
		if err != nil {
			return config, manifest.WithKind(manifest.KindUsage, fmt.Errorf("read the CA of %s: %w", host, err), "")
		}
		config.CAs[host] = pem
	}
	return config, nil
}

func (s *session) printPlan(c *cli.Context, plan *deployer.Plan) error {
	y, err := plan.YAML()
	if err != nil {
		return err
	}
	if format := c.String("output"); format == "json" || format == "name" {
		return write(s.out, format, result{value: plan.DaemonSet, names: []string{"daemonset/" + plan.DaemonSet.Name}})
	}
	_, err = s.out.Write(y)
	return err
}

// finishRollout prints how a deploy or a rollback ended.
func (s *session) finishRollout(c *cli.Context, r *deployer.Result, err error) error {
	var interrupted *deployer.Interrupted
	if errors.As(err, &interrupted) {
		var failed *deployer.RolloutError
		if errors.As(err, &failed) {
			s.say("ebpm: %s", failed)
		}
		return interruptedText(interrupted)
	}
	if r == nil {
		return err
	}
	s.notes(r.Notes)
	printErr := s.print(c, result{
		value: r,
		names: []string{r.Name},
		table: [][]string{
			{"RELEASE", "ACTION", "PACKAGE", "REVISION", "ATTACHED", "SECONDS", "DIGEST"},
			{
				r.Name, string(r.Action), referencePackage(r.Reference), strconv.FormatInt(r.Revision, 10),
				fmt.Sprintf("%d/%d", r.Attached, r.Desired), strconv.FormatFloat(r.Seconds, 'f', 1, 64), manifest.ShortDigest(r.Digest),
			},
		},
	})
	return errors.Join(err, printErr)
}

// interruptedText says what goes on without the command, how to watch it and how
// to undo it.
func interruptedText(i *deployer.Interrupted) error {
	undo := "rollback"
	switch {
	case i.Removal:
		return errInterrupted(fmt.Sprintf("interrupted: the removal of %s goes on without this command\n"+
			"  watch it:  ebpm list", i.Release))
	case i.Created:
		undo = "delete"
	}
	return errInterrupted(fmt.Sprintf("interrupted: the rollout of %s goes on without this command\n"+
		"  watch it:  ebpm status %[1]s\n"+
		"  undo it:   ebpm %[2]s %[1]s", i.Release, undo))
}

// referencePackage is REPOSITORY:TAG of a full reference.
func referencePackage(reference string) string {
	ref, err := manifest.ParseReference(reference, "")
	if err != nil {
		return reference
	}
	return ref.Package()
}
