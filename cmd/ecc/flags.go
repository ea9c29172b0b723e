// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ebpm/ebpm/builder/ecc"
)

// commandLine is what the user asked for.
type commandLine struct {
	source, header string

	output     string
	verbose    bool
	yaml       bool
	headerOnly bool
	wasmHeader bool
	btfgen     bool
	btfhub     string
	workspace  string
	cflags     []string
	clang      string
	llvmStrip  string
	noPackage  bool
	standalone bool
	archs      []string
	help       string // the flag as written: -h or --help
	version    bool

	positionals int
	seen        []string // the long names of the flags so far
}

// flag is one flag of the command line; exactly one of its targets is set.
type flag struct {
	short byte
	long  string
	value string // the value's name in help, empty for a switch
	help  string
	// fallback is the default where that depends on the environment.
	fallback func(getenv func(string) string) string
	on       func(*commandLine) *bool
	text     func(*commandLine) *string
	list     func(*commandLine) *[]string
}

var flags = []flag{
	{short: 'o', long: "output-path", value: "OUTPUT_PATH", help: "Folder for the results, which must exist [default: the folder of the source]",
		text: func(l *commandLine) *string { return &l.output }},
	{short: 'v', long: "verbose", help: "Log the commands that are run, too",
		on: func(l *commandLine) *bool { return &l.verbose }},
	{short: 'y', long: "yaml", help: "Write the skeleton and the package as YAML instead of JSON",
		on: func(l *commandLine) *bool { return &l.yaml }},
	{long: "header-only", help: "Take the source, a header, as its own event header",
		on: func(l *commandLine) *bool { return &l.headerOnly }},
	{long: "wasm-header", help: "Write ewasm-skel.h too, which holds the package as a C string",
		on: func(l *commandLine) *bool { return &l.wasmHeader }},
	{short: 'b', long: "btfgen", help: "Write NAME.tar too: the package with BTF for the kernels of a btfhub archive (runs bpftool)",
		on: func(l *commandLine) *bool { return &l.btfgen }},
	{long: "btfhub-archive", value: "BTFHUB_ARCHIVE", help: "Folder of the btfhub archive, the BTF for --btfgen", fallback: ecc.DefaultBTFHub,
		text: func(l *commandLine) *string { return &l.btfhub }},
	{short: 'w', long: "workspace-path", value: "WORKSPACE_PATH", help: "Folder whose include/ takes the place of the built-in headers",
		text: func(l *commandLine) *string { return &l.workspace }},
	{short: 'a', long: "additional-cflags", value: "ADDITIONAL_CFLAGS", help: "One more flag for clang; may be given again",
		list: func(l *commandLine) *[]string { return &l.cflags }},
	{short: 'c', long: "clang-bin", value: "CLANG_BIN", help: "The clang to run [default: clang]",
		text: func(l *commandLine) *string { return &l.clang }},
	{short: 'l', long: "llvm-strip-bin", value: "LLVM_STRIP_BIN", help: "The llvm-strip to run [default: llvm-strip]",
		text: func(l *commandLine) *string { return &l.llvmStrip }},
	{short: 'n', long: "no-generate-package-json", help: "Write the object and the skeleton only, no package.json",
		on: func(l *commandLine) *bool { return &l.noPackage }},
	{short: 's', long: "standalone", help: "Write NAME.out too, an executable that runs the package",
		on: func(l *commandLine) *bool { return &l.standalone }},
	{long: "target-arch", value: "TARGET_ARCH", help: "Compile for amd64 or arm64, into OUTPUT_PATH/TARGET_ARCH; may be given again (eunomia-bpf's ecc has no such flag)",
		list: func(l *commandLine) *[]string { return &l.archs }},
	{short: 'h', long: "help", help: "Print help"},
	{short: 'V', long: "version", help: "Print the version",
		on: func(l *commandLine) *bool { return &l.version }},
}

const usageArgs = "<SOURCE_PATH> [EXPORT_EVENT_HEADER]"

// usageError is a command line that cannot be understood.
type usageError struct {
	text, tip string
	// flag stands for the options in the line of usage.
	flag string
	// bare leaves the line of usage out.
	bare bool
}

func (e *usageError) Error() string { return e.text }

func (e *usageError) print(w io.Writer, program string) {
	fmt.Fprintf(w, "error: %s\n\n", e.text)
	if e.tip != "" {
		fmt.Fprintf(w, "  tip: %s\n\n", e.tip)
	}
	if !e.bare {
		flag := e.flag
		if flag != "" {
			flag += " "
		}
		fmt.Fprintf(w, "Usage: %s %s%s\n\n", program, flag, usageArgs)
	}
	fmt.Fprintln(w, "For more information, try '--help'.")
}

const anyOptions = "[OPTIONS]"

// parse reads a command line as clap, upstream's parser, does: flags before and
// behind the positionals, short flags in one word, values glued or apart. help
// and version end it where they stand.
func parse(args []string) (commandLine, error) {
	var line commandLine
	onlyPositionals := false
	for len(args) > 0 && line.help == "" && !line.version {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case onlyPositionals || arg == "-" || !strings.HasPrefix(arg, "-"):
			err = line.positional(arg)
		case arg == "--":
			onlyPositionals = true
		case strings.HasPrefix(arg, "--"):
			args, err = line.longFlag(arg, args)
		default:
			args, err = line.shortFlags(arg, args)
		}
		if err != nil {
			return line, err
		}
	}
	if line.help != "" || line.version {
		return line, nil
	}
	if line.noPackage && line.standalone {
		first, second := "--no-generate-package-json", "--standalone"
		if slices.Index(line.seen, second[2:]) < slices.Index(line.seen, first[2:]) {
			first, second = second, first
		}
		return line, &usageError{text: fmt.Sprintf("the argument '%s' cannot be used with '%s'", first, second), flag: first}
	}
	if line.positionals == 0 {
		return line, &usageError{text: "the following required arguments were not provided:\n  <SOURCE_PATH>"}
	}
	return line, nil
}

func (l *commandLine) positional(arg string) error {
	switch l.positionals {
	case 0:
		l.source = arg
	case 1:
		l.header = arg
	default:
		return &usageError{text: fmt.Sprintf("unexpected argument '%s' found", arg), flag: anyOptions}
	}
	l.positionals++
	return nil
}

func (l *commandLine) longFlag(arg string, rest []string) ([]string, error) {
	name, value, glued := strings.Cut(arg[2:], "=")
	for i := range flags {
		f := &flags[i]
		if f.long != name {
			continue
		}
		if f.value == "" {
			if glued {
				return rest, &usageError{text: fmt.Sprintf("unexpected value '%s' for '--%s' found; no more were expected", value, name), flag: "--" + name}
			}
			return rest, l.set(f, "--"+name, "")
		}
		if !glued {
			return l.takeValue(f, rest)
		}
		return rest, l.set(f, "--"+name, value)
	}
	return rest, unknown("--"+name, similarFlag(name))
}

func (l *commandLine) shortFlags(arg string, rest []string) ([]string, error) {
	for i := 1; i < len(arg); i++ {
		f := shortFlag(arg[i])
		if f == nil {
			return rest, unknown("-"+arg[i:i+1], "")
		}
		if f.value == "" {
			if err := l.set(f, "-"+arg[i:i+1], ""); err != nil || l.help != "" || l.version {
				return rest, err
			}
			continue
		}
		if i+1 == len(arg) {
			return l.takeValue(f, rest)
		}
		return rest, l.set(f, "", strings.TrimPrefix(arg[i+1:], "="))
	}
	return rest, nil
}

func shortFlag(c byte) *flag {
	for i := range flags {
		if flags[i].short == c {
			return &flags[i]
		}
	}
	return nil
}

// takeValue gives f the next argument. Only a flag for clang may begin with a
// dash; upstream refuses that too, against its own documentation.
func (l *commandLine) takeValue(f *flag, rest []string) ([]string, error) {
	if len(rest) == 0 || rest[0] == "--" {
		return rest, &usageError{text: fmt.Sprintf("a value is required for '%s' but none was supplied", f), bare: true}
	}
	if f.list == nil && len(rest[0]) > 1 && rest[0][0] == '-' {
		return rest, &usageError{text: fmt.Sprintf("a value is required for '%s' but none was supplied", f), bare: true}
	}
	return rest[1:], l.set(f, "", rest[0])
}

func (f *flag) String() string {
	if f.value == "" {
		return "--" + f.long
	}
	return fmt.Sprintf("--%s <%s>", f.long, f.value)
}

func (l *commandLine) set(f *flag, written, value string) error {
	if f.list != nil {
		list := f.list(l)
		*list = append(*list, value)
		return nil
	}
	if slices.Contains(l.seen, f.long) {
		return &usageError{text: fmt.Sprintf("the argument '%s' cannot be used multiple times", f), flag: anyOptions}
	}
	l.seen = append(l.seen, f.long)
	switch {
	case f.on != nil:
		*f.on(l) = true
	case f.text != nil:
		*f.text(l) = value
	default:
		l.help = written
	}
	return nil
}

func unknown(name, similar string) error {
	e := &usageError{text: fmt.Sprintf("unexpected argument '%s' found", name), flag: anyOptions}
	if similar != "" {
		e.tip = fmt.Sprintf("a similar argument exists: '--%s'", similar)
		e.flag = "--" + similar
	} else {
		e.tip = fmt.Sprintf("to pass '%s' as a value, use '-- %s'", name, name)
	}
	return e
}

// similarFlag returns the one flag that begins with name, or whose name begins
// it.
func similarFlag(name string) string {
	found := ""
	for _, f := range flags {
		if len(name) >= 3 && (strings.HasPrefix(f.long, name) || strings.HasPrefix(name, f.long)) {
			if found != "" {
				return ""
			}
			found = f.long
		}
	}
	return found
}

// printHelp writes the help; the long one has a line of its own for each text.
// The folder of the btfhub archive is that of the environment.
func printHelp(w io.Writer, program string, long bool, getenv func(string) string) {
	fmt.Fprintf(w, "Compile an eBPF source into an object, its skeleton and a package.json\n\n")
	fmt.Fprintf(w, "Usage: %s %s %s\n\n", program, anyOptions, usageArgs)
	rows := [][2]string{
		{"<SOURCE_PATH>", "The eBPF C source, such as tool.bpf.c"},
		{"[EXPORT_EVENT_HEADER]", "The header whose structs the program sends to user space"},
	}
	fmt.Fprintln(w, "Arguments:")
	printRows(w, rows, long)
	rows = rows[:0]
	for i := range flags {
		f := &flags[i]
		left := "    " + f.String()
		if f.short != 0 {
			left = fmt.Sprintf("-%c, %s", f.short, f)
		}
		help := f.help
		if f.fallback != nil {
			if value := f.fallback(getenv); value != "" {
				help += " [default: " + value + "]"
			}
		}
		rows = append(rows, [2]string{left, help})
	}
	fmt.Fprintln(w, "\nOptions:")
	printRows(w, rows, long)
}

func printRows(w io.Writer, rows [][2]string, long bool) {
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for i, row := range rows {
		if !long {
			fmt.Fprintf(w, "  %-*s  %s\n", width, row[0], row[1])
			continue
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "  %s\n          %s\n", row[0], row[1])
	}
}
