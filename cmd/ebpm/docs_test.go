// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/manifest"
)

var update = flag.Bool("update", false, "write golden files anew")

const commandsFile = "../../docs/commands.md"

// docs/commands.md is what the code says.
func TestDocs(t *testing.T) {
	got := commandsDoc(newApp(&session{}, "ebpm"))
	if *update {
		if err := os.WriteFile(commandsFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(commandsFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of date (go test ./cmd/ebpm -run Docs -update):\n%s", commandsFile, diff)
	}
}

func commandsDoc(app *cli.App) string {
	var b strings.Builder
	b.WriteString("# Commands\n\nGenerated from the code: `go test ./cmd/ebpm -run Docs -update`.\n\n" +
		"Flags may stand before or after the other words. The result goes to stdout,\nprogress and messages to stderr. `-o` takes " +
		"`" + strings.Join(outputFormats, "`, `") + "`;\nthe keys of JSON are API. `pull -o` is the exception: it names a folder.\n\n## Global flags\n\n")
	flags(&b, app.Flags)
	b.WriteString("\nA flag goes before the environment, that before the configuration file\n" +
		"(`$XDG_CONFIG_HOME/ebpm/config.yaml`), whose keys are `registry`, `plainHTTP` (a\nlist), `ca` (HOST:PORT to a PEM file), `store`, `image` and `builderImage`.\n")
	for _, c := range app.Commands {
		command(&b, "ebpm", c)
	}
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | ok |\n")
	for _, k := range manifest.Kinds() {
		fmt.Fprintf(&b, "| %d | %s |\n", k.Kind, k.Text)
	}
	fmt.Fprintf(&b, "| %d | interrupted |\n\n`ebpm run` and `ebpm logs -f` end with 0 when they are interrupted. `ecc` and\n`ecli` keep the codes of eunomia-bpf's: 0, 1 and 2.\n", exitInterrupted)
	return b.String()
}

func command(b *strings.Builder, parent string, c *cli.Command) {
	name := parent + " " + c.Name
	fmt.Fprintf(b, "\n## %s\n\n", name)
	words := []string{name}
	if len(c.Flags) > 0 {
		words = append(words, "[FLAGS]")
	}
	if c.ArgsUsage != "" {
		words = append(words, c.ArgsUsage)
	}
	fmt.Fprintf(b, "%s.\n\n    %s\n", strings.ToUpper(c.Usage[:1])+c.Usage[1:], strings.Join(words, " "))
	if c.Description != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", c.Description)
	}
	if len(c.Flags) > 0 {
		b.WriteString("\n")
		flags(b, c.Flags)
	}
	for _, sub := range c.Subcommands {
		command(b, name, sub)
	}
}

func flags(b *strings.Builder, all []cli.Flag) {
	b.WriteString("| flag | environment | meaning |\n|---|---|---|\n")
	for _, f := range all {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
			continue
		}
		doc := f.(cli.DocGenerationFlag)
		var names []string
		for _, n := range f.Names() {
			names = append(names, strings.Repeat("-", min(len(n), 2))+n)
		}
		usage := strings.ReplaceAll(doc.GetUsage(), "`", "")
		if v := doc.GetDefaultText(); doc.TakesValue() && v != "" && v != `""` && v != "0s" {
			usage += " (default: " + strings.Trim(v, `"`) + ")"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", strings.Join(names, "`, `"), strings.Join(doc.GetEnvVars(), ", "), usage)
	}
}
