// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

// exitInterrupted is the exit code of a command that a signal ended.
const exitInterrupted = 130

type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// session is what one call of ebpm shares between its parts.
type session struct {
	stdio
	config config
	log    *logrus.Logger
	// tail holds the arguments that belong to the program.
	tail []string
}

// run is ebpm: it never exits the process and prints only to std.
func run(ctx context.Context, args []string, std stdio) int {
	s := &session{stdio: std, log: logrus.New()}
	s.log.SetOutput(std.err)
	s.log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true})
	app := newApp(s, filepath.Base(args[0]))
	var head []string
	head, s.tail = splitArgs(app, args)
	err := app.RunContext(ctx, head)
	// Whoever reads no further has what they wanted.
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return 0
	}
	var done errInterrupted
	if errors.As(err, &done) {
		fmt.Fprintln(std.err, done.Error())
		return exitInterrupted
	}
	fmt.Fprintf(std.err, "ebpm: %s\n", ecli.FullMessage(err))
	if advice := manifest.AdviceOf(err); advice != "" {
		fmt.Fprintln(std.err, advice)
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return exitInterrupted
	}
	return int(manifest.KindOf(err))
}

// errInterrupted ends a command that a signal stopped; its text says what goes
// on without it.
type errInterrupted string

func (e errInterrupted) Error() string { return string(e) }

// Categories of the help text, in the order of a program's life.
const (
	categoryMake    = "Make packages:"
	categoryRun     = "Run on this machine:"
	categoryCluster = "Run in a cluster:"
)

func newApp(s *session, name string) *cli.App {
	// kubectl calls its plugin kubectl-ebpm, and its users say kubectl ebpm.
	name = strings.Replace(strings.TrimSuffix(name, ".exe"), "kubectl-", "kubectl ", 1)
	app := &cli.App{
		Name:      name,
		HelpName:  name,
		Usage:     "build, ship and run eBPF programs on a fleet",
		Version:   manifest.Version,
		Writer:    s.out,
		ErrWriter: s.err,
		Reader:    s.in,
		Suggest:   true,
		// Errors are printed and turned into codes in run, after every defer.
		ExitErrHandler:            func(*cli.Context, error) {},
		DisableSliceFlagSeparator: true,
		HideHelpCommand:           true,
		HideVersion:               true, // its flag has the short name -v
		Flags:                     s.globalFlags(),
		Before:                    s.configure,
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return cli.ShowAppHelp(c)
			}
			return usageError(c, fmt.Sprintf("unknown command %q%s", c.Args().First(), unknownCommandHint))
		},
		Commands: append(append([]*cli.Command{s.pushCommand(), s.pullCommand(), s.tagCommand(), s.packagesCommand(), s.runCommand()},
			s.clusterCommands()...), s.versionCommand(), s.completionCommand()),
		EnableBashCompletion: true,
	}
	onUsageError := func(c *cli.Context, err error, _ bool) error { return usageError(c, err.Error()) }
	app.OnUsageError = onUsageError
	// Neither of these is inherited by a command.
	for _, command := range app.Commands {
		command.OnUsageError = onUsageError
		command.HideHelpCommand = true
	}
	return app
}

// usageError is an error of [manifest.KindUsage] that points at the help.
func usageError(c *cli.Context, text string) error {
	command := c.App.HelpName
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != c.App.Name {
		command += " " + c.Command.Name
	}
	return manifest.WithKind(manifest.KindUsage, errors.New(text), fmt.Sprintf("See `%s --help`.", command))
}

// positionals checks the number of a command's positionals and returns them.
func (s *session) positionals(c *cli.Context, least, most int) ([]string, error) {
	args := c.Args().Slice()
	switch {
	case len(args) < least:
		return nil, usageError(c, fmt.Sprintf("%s is missing (usage: %s %s)", missing(c.Command.ArgsUsage, len(args)), c.Command.HelpName, c.Command.ArgsUsage))
	case most >= 0 && len(args) > most:
		return nil, usageError(c, fmt.Sprintf("unexpected argument %q (usage: %s %s)", args[most], c.Command.HelpName, c.Command.ArgsUsage))
	case len(s.tail) > 0 && !strings.Contains(c.Command.ArgsUsage, "ARGS"):
		return nil, usageError(c, fmt.Sprintf("unexpected argument %q behind --", s.tail[0]))
	}
	return args, nil
}

// missing returns the word of a usage text for the n-th positional.
func missing(usage string, n int) string {
	words := strings.Fields(usage)
	if n < len(words) {
		return words[n]
	}
	return "an argument"
}
