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
	// A person looks at out, or at err: progress is for them.
	outTerminal, errTerminal bool
}

// errNoReader is the error of a write to a stdout that nobody reads any more.
var errNoReader = errors.New("nobody reads the output")

// resultWriter is stdout. Its broken pipe is told from those of sockets.
type resultWriter struct{ w io.Writer }

func (r *resultWriter) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errNoReader
	}
	return n, err
}

// runnerOutput is stdout for a runner, which itself looks whether that is a
// terminal, and whether somebody reads.
func (s *session) runnerOutput() io.Writer {
	if r, ok := s.out.(*resultWriter); ok {
		return r.w
	}
	return s.out
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
	if words, ok := completing(args); ok {
		for _, word := range s.complete(ctx, app, words) {
			fmt.Fprintln(std.out, word)
		}
		return 0
	}
	var head []string
	head, s.tail = splitArgs(app, args)
	err := app.RunContext(ctx, head)
	// Whoever reads no further has what they wanted.
	if err == nil || err == errNoReader { //nolint:errorlint // beside another error it does not count
		return 0
	}
	var done errInterrupted
	if errors.As(err, &done) {
		s.say("%s", done.Error())
		return exitInterrupted
	}
	s.complain(err)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return exitInterrupted
	}
	return int(manifest.KindOf(err))
}

// say prints a line for people. What packages, registries and nodes put into it
// cannot move the cursor.
func (s *session) say(format string, args ...any) {
	fmt.Fprintln(s.err, manifest.TerminalText(fmt.Sprintf(format, args...), true))
}

// complain prints an error, and what to do about it.
func (s *session) complain(err error) {
	s.say("ebpm: %s", ecli.FullMessage(err))
	if advice := manifest.AdviceOf(err); advice != "" {
		s.say("%s", strings.TrimSpace(advice))
	}
}

// progress prints a line for a person who waits; a log needs only the end.
func (s *session) progress(format string, args ...any) {
	if s.errTerminal {
		s.say(format, args...)
	}
}

// errInterrupted ends a command that a signal stopped; its text says what goes
// on without it.
type errInterrupted string

func (e errInterrupted) Error() string { return string(e) }

// Categories of the help text; they are sorted, in the order of a program's life.
const (
	categoryMake    = "Make packages"
	categoryRun     = "Run here"
	categoryCluster = "Run in a cluster"
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
		// Errors are printed and turned into codes in run, after every defer.
		ExitErrHandler:            func(*cli.Context, error) {},
		DisableSliceFlagSeparator: true,
		HideHelpCommand:           true,
		HideVersion:               true, // its flag has the short name -v; ours is below
		Flags:                     s.globalFlags(),
		Before:                    s.configure,
		Action: func(c *cli.Context) error {
			switch word := c.Args().First(); {
			case c.Bool("version"):
				return s.printVersion(c)
			case word == "", word == "help" && c.NArg() == 1:
				return cli.ShowAppHelp(c)
			case word == "help":
				return showHelp(c, c.Args().Slice()[1:])
			default:
				return unknownCommand(c, word)
			}
		},
		Commands: append(s.clusterCommands(),
			s.pushCommand(), s.pullCommand(), s.tagCommand(), s.packagesCommand(), s.runCommand(), s.versionCommand(), s.completionCommand()),
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

// showHelp is git's and docker's other way to ask for help.
func showHelp(c *cli.Context, path []string) error {
	commands := c.App.Commands
	var command *cli.Command
	for _, word := range path {
		if command = findCommand(commands, word); command == nil {
			return unknownCommand(c, word)
		}
		commands = command.Subcommands
	}
	cli.HelpPrinter(c.App.Writer, cli.CommandHelpTemplate, command)
	return nil
}

func unknownCommand(c *cli.Context, word string) error {
	text := fmt.Sprintf("unknown command %q%s", word, unknownCommandHint)
	if near := cli.SuggestCommand(c.App.Commands, word); near != "" && unknownCommandHint == "" {
		text += ". " + near
	}
	return usageError(c, text)
}

// usageError is an error of [manifest.KindUsage] that points at the help.
func usageError(c *cli.Context, text string) error {
	command := c.App.HelpName
	if c.Command != nil && c.Command.HelpName != "" && c.Command.Name != c.App.Name {
		command = c.Command.HelpName
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
