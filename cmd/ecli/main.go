// SPDX-License-Identifier: Apache-2.0

// Command ecli runs a package on the kernel of this machine. Its command line
// is that of eunomia-bpf's ecli.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

func main() {
	pkg, err := ownPackage()
	switch {
	case err != nil:
		os.Exit(fail(os.Stderr, err))
	case pkg != nil:
		os.Exit(runFlags(&flags{own: pkg, args: os.Args[1:]}, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const (
	exitFailure = 1
	exitUsage   = 2
)

const usage = `Run eBPF packages on this machine.

Usage: ecli [COMMAND_LINE]... [COMMAND]

Commands:
  run    Run a package
  push   Push a module to a registry
  pull   Pull a module from a registry
  ready  Tell whether a runner is ready
  help   Print this message or the help of a command

Arguments:
  [COMMAND_LINE]...  For old scripts: the same as those of run

Options:
  -h, --help     Print help
  -V, --version  Print the version
`

const usageRun = `Run a package.

Usage: ecli run [OPTIONS] <COMMAND_LINE>...

Arguments:
  <COMMAND_LINE>...  The program, and behind it its own arguments (try --help there)

The program is a file, - for standard input, an http or https URL, or the
reference of a package or an image in a registry. Names that end in .json, .tar,
.tar.gz, .tgz or .wasm say what it is; else --prog-type does. URLs and references
are fetched by the ebpm in the folder of ecli or in PATH.

Options:
  -j, --json                    Print each event as a line of JSON
  -p, --prog-type <PROG_TYPE>   What the program is: json, tar or wasm
      --strict                  Take only a file in the canonical form of a package
      --attach <PROG=TARGET>    Attach a program of the package there; may be given several times
      --interface <NAME>        Attach programs of interfaces (XDP, tc, socket filters) to this one
      --root <DIR>              Look for the targets of uprobes in this folder
      --handover <DIR>          Take over from the instance that meets others in this folder, and be taken over from
      --carry <MAP>             Also carry this map over (.data, .bss), or all; may be given several times
      --reset-state             Let maps start empty whose layout has changed
      --ready <SOCKET>          Listen here once every program is attached
      --termination-log <FILE>  Write the cause of a failure there, too
  -h, --help                    Print help

A TARGET depends on what the program is attached to:
  uprobe, uretprobe, usdt       BINARY:FUNCTION[,pid=PID | ,container=ID], or pid=PID alone
  XDP, tc, socket filter        An interface, several with commas, a pattern such as 'veth*'
  cgroup, sockops, lsm_cgroup   The path of a cgroup
  perf_event                    EVENT[@HZ] or @HZ, such as cpu-clock@99
  every other                   What follows the hook in its section: a function, a tracepoint
`

const usageAuth = `  -i, --prompt               Ask for the username and the password
  -u, --username <USERNAME>  The username; needs --password
  -p, --password <PASSWORD>  The password; needs --username
  -h, --help                 Print help

Without --prompt and --username the account is that of the Docker config and its
helpers. The ebpm in the folder of ecli or in PATH does the work.
`

const usagePush = `Push a module, or a package.json for ecli run, to a registry.

Usage: ecli push [OPTIONS] <IMAGE>

Arguments:
  <IMAGE>  The reference, such as registry.example/team/tool:1.0.0

Options:
  -m, --module <MODULE>            The file [default: app.wasm]
  -a, --annotations <ANNOTATIONS>  KEY=VALUE of the image; may be given several times
` + usageAuth

const usagePull = `Pull a module from a registry.

Usage: ecli pull [OPTIONS] <IMAGE>

Arguments:
  <IMAGE>  The reference, such as registry.example/team/tool:1.0.0

Options:
  -o, --output <OUTPUT>      The file to write [default: app.wasm]
` + usageAuth

const usageReady = `End with 0 when a runner listens on the socket (` + ecli.DefaultReadySocket + `).

Usage: ecli ready [SOCKET]
`

// usages has the help of every command; "" is that of ecli itself.
var usages = map[string]string{"": usage, "run": usageRun, "push": usagePush, "pull": usagePull, "ready": usageReady}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "":
		return misused(stderr, "", errors.New("Either use subcommand, or directly provide program URL")) //nolint:staticcheck // upstream's words
	case "ready":
		return ready(args[1:], stdout, stderr)
	case "help":
		return help(args[1:], stdout, stderr)
	case "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	case "-V", "--version":
		fmt.Fprintf(stdout, "ecli %s\n", manifest.Version)
		return 0
	case "push", "pull":
		return runImage(command, args[1:], stdin, stdout, stderr)
	case "run":
		args = args[1:]
	}
	f, help, err := parseFlags(args)
	switch {
	case err != nil:
		return misused(stderr, "run", err)
	case help:
		fmt.Fprint(stdout, usageRun)
		return 0
	}
	return runFlags(f, stdin, stdout, stderr)
}

// runFlags runs a package until it is told to end.
func runFlags(f *flags, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signals()
	defer stop()
	if err := runPackage(ctx, f, stdin, stdout, stderr); err != nil {
		logTermination(f, err, stderr)
		return fail(stderr, err)
	}
	return 0
}

// signals returns a context that the first signal ends; the second ends the
// process.
func signals() (context.Context, context.CancelFunc) {
	// A reader of stdout that goes away is an error of the write, not a signal.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func runImage(command string, words []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f, help, err := parseImageFlags(command, words)
	switch {
	case err != nil:
		return misused(stderr, command, err)
	case help:
		fmt.Fprint(stdout, usages[command])
		return 0
	}
	ctx, stop := signals()
	defer stop()
	if err := image(ctx, command, f, stdin, stdout, stderr); err != nil {
		return fail(stderr, err)
	}
	return 0
}

func help(words []string, stdout, stderr io.Writer) int {
	command := strings.Join(words, " ")
	text, ok := usages[strings.TrimPrefix(command, "help")]
	if !ok {
		return misused(stderr, "", fmt.Errorf("unrecognized subcommand '%s'", command))
	}
	fmt.Fprint(stdout, text)
	return 0
}

// misused says in the form of eunomia-bpf's ecli what is wrong with the words of
// a command.
func misused(stderr io.Writer, command string, err error) int {
	_, line, _ := strings.Cut(usages[command], "Usage: ")
	line, _, _ = strings.Cut(line, "\n")
	fmt.Fprint(stderr, ecli.TextFor(stderr, fmt.Sprintf("error: %s\n\nUsage: %s\n\nFor more information, try '--help'.\n", err, line)))
	return exitUsage
}

func fail(stderr io.Writer, err error) int {
	text := fmt.Sprintf("Error: %s\n", ecli.FullMessage(err))
	if advice := manifest.AdviceOf(err); advice != "" {
		text += advice + "\n"
	}
	fmt.Fprint(stderr, ecli.TextFor(stderr, text))
	return exitFailure
}

func ready(args []string, stdout, stderr io.Writer) int {
	socket := ecli.DefaultReadySocket
	switch {
	case len(args) == 1 && (args[0] == "-h" || args[0] == "--help"):
		fmt.Fprint(stdout, usageReady)
		return 0
	case len(args) == 1 && !strings.HasPrefix(args[0], "-"):
		socket = args[0]
	case len(args) > 0:
		return misused(stderr, "ready", errors.New("ready takes the path of a socket, and nothing else"))
	}
	if err := ecli.CheckReady(socket); err != nil {
		return fail(stderr, err)
	}
	return 0
}

func runPackage(ctx context.Context, f *flags, stdin io.Reader, stdout, stderr io.Writer) error {
	p := &program{pkg: f.own}
	if f.own == nil {
		var err error
		if p, err = readProgram(ctx, f, stdin, stderr); err != nil {
			return err
		}
	}
	revision, err := ownRevision()
	if err != nil {
		return err
	}
	return ecli.Run(ctx, ecli.Options{
		Package:     p.pkg,
		Args:        f.args,
		JSON:        f.json,
		KernelBTF:   p.types,
		OptionalBTF: f.strict, // as in Pods
		Stdout:      stdout,
		Stderr:      stderr,
		Root:        f.root,
		Attach:      f.attach,
		Interface:   f.iface,
		ReadySocket: f.ready,
		Handover:    f.handover,
		Revision:    revision,
		Carry:       f.carry,
		ResetState:  f.resetState,
		// Who hangs in the kernel is ended by nobody else, and the other instance waits
		// for that end.
		Hung: func(err error) {
			logTermination(f, err, stderr)
			os.Exit(fail(stderr, err))
		},
	})
}

// revisionEnv says which of two instances follows the other. In a Pod it is the
// generation of the template.
const revisionEnv = "EBPM_REVISION"

func ownRevision() (uint64, error) {
	text := os.Getenv(revisionEnv)
	if text == "" {
		return uint64(time.Now().UnixNano()), nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is no number", revisionEnv, text)
	}
	return n, nil
}

// logTermination writes the cause of a failure where kubelet reads it.
func logTermination(f *flags, err error, stderr io.Writer) {
	if f.terminationLog == "" {
		return
	}
	if logErr := os.WriteFile(f.terminationLog, ecli.TerminationMessage(err), 0o644); logErr != nil {
		fmt.Fprint(stderr, ecli.TextFor(stderr, fmt.Sprintf("Error: write the termination log: %v\n", logErr)))
	}
}
