// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ebpm/ebpm/manifest"
)

// A parameter is an option of the program's command line that sets a global
// variable.
type parameter struct {
	variable string
	section  string
	ctype    string
	long     string
	short    string
	help     string
	// fallback is the value without the option; nil keeps the object's.
	fallback *string
	// onValue is what an option without value stands for ("true" or "false");
	// empty for an option that takes a value.
	onValue string
}

// A setting is the value that a variable is given.
type setting struct {
	*parameter
	value string
}

// commandLine is what a package's description says of the program's command
// line.
type commandLine struct {
	name    string
	version string
	before  string
	after   string
	params  []*parameter
}

const (
	defaultBefore  = "A simple eBPF program"
	defaultAfter   = "Built with eunomia-bpf framework.\nSee https://github.com/eunomia-bpf/eunomia-bpf for more information."
	defaultVersion = "0.1.0"
	// kconfigSection holds values that the kernel's configuration gives.
	kconfigSection = ".kconfig"
)

// newCommandLine reads meta's variables and documentation.
func newCommandLine(meta *manifest.Meta) (*commandLine, error) {
	skel := &meta.Skeleton
	c := &commandLine{name: skel.ObjName, version: defaultVersion, before: defaultBefore, after: defaultAfter}
	if doc := skel.Doc; doc != nil {
		for _, field := range []struct {
			name string
			raw  json.RawMessage
			to   *string
		}{
			{"description", doc.Description, &c.before},
			{"brief", doc.Brief, &c.before},
			{"details", doc.Details, &c.after},
			{"version", doc.Version, &c.version},
		} {
			if field.raw == nil || string(field.raw) == "null" {
				continue
			}
			if err := json.Unmarshal(field.raw, field.to); err != nil {
				return nil, fmt.Errorf("read doc.%s: expected a string, got %s", field.name, field.raw)
			}
		}
	}
	shorts := map[string]bool{}
	for _, section := range skel.DataSections {
		if section.Name == kconfigSection {
			continue
		}
		for i := range section.Variables {
			v := &section.Variables[i]
			if strings.HasPrefix(v.Name, manifest.DummyPrefix) {
				continue
			}
			p, err := newParameter(section.Name, v)
			if err != nil {
				return nil, fmt.Errorf("variable %s: %w", v.Name, err)
			}
			if shorts[p.short] {
				p.short = "" // the first one has it
			}
			if p.short != "" {
				shorts[p.short] = true
			}
			c.params = append(c.params, p)
		}
	}
	return c, nil
}

func newParameter(section string, v *manifest.Variable) (*parameter, error) {
	p := &parameter{
		variable: v.Name,
		section:  section,
		ctype:    v.Type,
		long:     v.Name,
		help:     fmt.Sprintf("Set value of `%s` variable %s", v.Type, v.Name),
	}
	if v.Description != "" {
		p.help = v.Description
	}
	raw := v.Value
	if arg := v.CmdArg; arg != nil {
		if arg.Long != "" {
			p.long = arg.Long
		}
		if arg.Help != "" {
			p.help = arg.Help
		}
		if arg.Default != nil {
			raw = arg.Default
		}
		p.short = arg.Short
	}
	if p.short != "" && utf8.RuneCountInString(p.short) != 1 {
		return nil, fmt.Errorf("its short name %q is not one character", p.short)
	}
	raw = bytes.TrimSpace(raw)
	if string(raw) == "null" {
		raw = nil
	}
	if v.Type == "bool" {
		p.short = ""
		p.onValue = "true"
		switch string(raw) {
		case "":
			return p, nil
		case "true":
			p.long, p.onValue = "disable-"+p.long, "false"
		case "false":
			p.long = "enable-" + p.long
		default:
			return nil, fmt.Errorf("the default of a bool is true or false, not %s", raw)
		}
		fallback := string(raw)
		p.fallback = &fallback
		return p, nil
	}
	if len(raw) == 0 {
		return p, nil
	}
	switch c := raw[0]; {
	case c == '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("read its default: %w", err)
		}
		p.fallback = &s
	case c == '-' || c >= '0' && c <= '9':
		s := string(raw)
		p.fallback = &s
	default:
		return nil, fmt.Errorf("the default of a variable of type %s is a number or a string, not %s", v.Type, raw)
	}
	return p, nil
}

// usage is how errors and the help name the option.
func (p *parameter) usage() string {
	if p.onValue != "" {
		return "--" + p.long
	}
	return "--" + p.long + " <" + p.variable + ">"
}

// A request is what the arguments ask for instead of a run.
type request int

const (
	requestRun request = iota
	requestHelp
	requestVersion
)

// parse reads the program's arguments. Options are --NAME VALUE, --NAME=VALUE,
// -n VALUE, -nVALUE and -n=VALUE; a value that begins with a dash needs one of
// the glued forms. The settings hold the fallbacks of the options that are not
// given, in the order of the variables.
func (c *commandLine) parse(args []string) ([]setting, request, error) {
	given := map[*parameter]string{}
	set := func(p *parameter, value string) error {
		if _, ok := given[p]; ok {
			return usageError("the argument '%s' cannot be used multiple times", p.usage())
		}
		given[p] = value
		return nil
	}
	verbose := false
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		// next takes the value of an option from the word behind it.
		next := func(p *parameter) (string, error) {
			if len(args) == 0 {
				return "", usageError("a value is required for '%s' but none was supplied", p.usage())
			}
			if len(args[0]) > 1 && args[0][0] == '-' {
				return "", manifest.WithKind(manifest.KindUsage,
					fmt.Errorf("a value is required for '%s', and '%s' looks like an option", p.usage(), args[0]),
					fmt.Sprintf("Write --%s=%s if it is the value.", p.long, args[0]))
			}
			value := args[0]
			args = args[1:]
			return value, nil
		}
		switch {
		case word == "--":
			if len(args) > 0 {
				return nil, 0, usageError("unexpected argument '%s' found", args[0])
			}
		case strings.HasPrefix(word, "--"):
			name, value, glued := strings.Cut(word[2:], "=")
			p := c.long(name)
			switch {
			case p == nil && name == "verbose":
				if verbose {
					return nil, 0, usageError("the argument '--verbose' cannot be used multiple times")
				}
				verbose = true
			case p == nil && name == "help" && !glued:
				return nil, requestHelp, nil
			case p == nil && name == "version" && !glued:
				return nil, requestVersion, nil
			case p == nil:
				return nil, 0, c.unknown("--" + name)
			case p.onValue != "":
				if glued {
					return nil, 0, usageError("unexpected value '%s' for '%s' found; no more were expected", value, p.usage())
				}
				value = p.onValue
			case !glued:
				var err error
				if value, err = next(p); err != nil {
					return nil, 0, err
				}
			}
			if p != nil {
				if err := set(p, value); err != nil {
					return nil, 0, err
				}
			}
		case len(word) > 1 && word[0] == '-':
			for rest := word[1:]; rest != ""; {
				r, n := utf8.DecodeRuneInString(rest)
				name := rest[:n]
				rest = rest[n:]
				p := c.short(name)
				switch {
				case p == nil && r == 'h':
					return nil, requestHelp, nil
				case p == nil && r == 'V':
					return nil, requestVersion, nil
				case p == nil:
					return nil, 0, c.unknown("-" + name)
				}
				value := strings.TrimPrefix(rest, "=")
				if rest == "" {
					var err error
					if value, err = next(p); err != nil {
						return nil, 0, err
					}
				}
				rest = ""
				if err := set(p, value); err != nil {
					return nil, 0, err
				}
			}
		default:
			return nil, 0, usageError("unexpected argument '%s' found", word)
		}
	}
	var settings []setting
	for _, p := range c.params {
		if value, ok := given[p]; ok {
			settings = append(settings, setting{p, value})
		} else if p.fallback != nil {
			settings = append(settings, setting{p, *p.fallback})
		}
	}
	return settings, requestRun, nil
}

func (c *commandLine) long(name string) *parameter {
	for _, p := range c.params {
		if p.long == name {
			return p
		}
	}
	return nil
}

func (c *commandLine) short(name string) *parameter {
	for _, p := range c.params {
		if p.short == name {
			return p
		}
	}
	return nil
}

func usageError(format string, args ...any) error {
	return manifest.WithKind(manifest.KindUsage, fmt.Errorf(format, args...), "The program's option --help lists its arguments.")
}

// unknown names the option that is nearest to word, if one is near.
func (c *commandLine) unknown(word string) error {
	err := fmt.Errorf("unexpected argument '%s' found", word)
	best, bestScore := "", 0.7
	for _, name := range c.longNames() {
		if score := jaro(strings.TrimLeft(word, "-"), name); score > bestScore {
			best, bestScore = name, score
		}
	}
	if best == "" || !strings.HasPrefix(word, "--") {
		return usageError("%w", err)
	}
	return manifest.WithKind(manifest.KindUsage, err, fmt.Sprintf("A similar argument exists: '--%s'.", best))
}

func (c *commandLine) longNames() []string {
	var names []string
	for _, p := range c.params {
		names = append(names, p.long)
	}
	return append(names, "verbose", "help", "version")
}

// jaro returns how alike a and b are, from 0 to 1: the share of bytes that they
// have in common at about the same place, less for those in another order.
func jaro(a, b string) float64 {
	window := max(max(len(a), len(b))/2-1, 0)
	taken := make([]bool, len(b))
	var common []byte
	for i := range len(a) {
		for j := max(0, i-window); j < min(len(b), i+window+1); j++ {
			if !taken[j] && a[i] == b[j] {
				taken[j] = true
				common = append(common, a[i])
				break
			}
		}
	}
	if len(common) == 0 {
		return 0
	}
	swapped, k := 0, 0
	for j := range taken {
		if taken[j] {
			if b[j] != common[k] {
				swapped++
			}
			k++
		}
	}
	m := float64(len(common))
	return (m/float64(len(a)) + m/float64(len(b)) + (m-float64(swapped)/2)/m) / 3
}

// versionText is what --version prints.
func (c *commandLine) versionText() string { return c.name + " " + c.version + "\n" }

// helpText is what --help prints, laid out as clap 4 does.
func (c *commandLine) helpText() string {
	type row struct{ short, long, help string }
	var rows []row
	if c.long("verbose") == nil {
		rows = append(rows, row{"", "--verbose", "Whether to show libbpf debug information"})
	}
	for _, p := range c.params {
		help := p.help
		if p.fallback != nil && p.onValue == "" {
			help += " [default: " + *p.fallback + "]"
		}
		rows = append(rows, row{p.short, p.usage(), help})
	}
	if c.long("help") == nil {
		rows = append(rows, row{"h", "--help", "Print help"})
	}
	if c.long("version") == nil {
		rows = append(rows, row{"V", "--version", "Print version"})
	}
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r.long))
	}
	// Help that would not fit beside wide options goes below all of them.
	const line = 100
	below := false
	for _, r := range rows {
		taken := width + 12
		if taken <= line && taken*100 > line*40 && utf8.RuneCountInString(r.help) > line-taken {
			below = true
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n\nUsage: prog [OPTIONS]\n\nOptions:\n", c.before)
	for _, r := range rows {
		short := "    "
		if r.short != "" && (r.short != "h" || r.long == "--help" || c.short("h") != nil) {
			short = "-" + r.short + ", "
		}
		if r.long == "--help" && c.short("h") != nil || r.long == "--version" && c.short("V") != nil {
			short = "    "
		}
		indent := width + 8
		if below {
			indent = 10
			fmt.Fprintf(&b, "  %s%s\n%*s", short, r.long, indent, "")
		} else {
			fmt.Fprintf(&b, "  %s%-*s  ", short, width, r.long)
		}
		b.WriteString(strings.ReplaceAll(r.help, "\n", "\n"+strings.Repeat(" ", indent)))
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "\n%s\n", c.after)
	return b.String()
}
