// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"github.com/ebpm/ebpm/manifest"
)

// licenseVariable is the variable whose comment documents the whole program.
const licenseVariable = "LICENSE"

// maxAnnotationNesting is how deep arrays and objects may lie in each other in
// an annotation; a package may hold 32 levels, eight of which are its own.
const maxAnnotationNesting = 24

// ModuleAttr is the key of the log attribute that holds the module that
// eunomia-bpf's ecc names in its line, where it is not that of the compiler.
const ModuleAttr = "module"

// documentParser is what eunomia-bpf's ecc calls its reader of comments.
const documentParser = "ecc_rs::document_parser"

// An annotator puts the annotations of a source's documentation comments into
// its skeleton (spec section A7).
type annotator struct {
	file string // the source's name in warnings
	log  *slog.Logger
	// warn gets each line that says what an author does not expect.
	warn func(line string)
	// said holds the comments whose warnings were printed.
	said map[*docComment]bool
}

func (a *annotator) annotate(skel *manifest.Skeleton, source []byte) error {
	a.said = map[*docComment]bool{}
	var last *docComment // of the entity before
	for _, d := range declarationsOf(source) {
		for _, n := range d.names {
			if n.comment == nil {
				continue
			}
			if err := a.annotateName(skel, n); err != nil {
				return err
			}
		}
		// A map takes the comment of the entity before its variable, which is
		// its struct when that is part of the declaration.
		for _, n := range d.names {
			comment := last
			switch {
			case d.hasBody:
				comment = d.tag
			case n.byMacro:
				comment = n.comment
			}
			if i := slices.IndexFunc(skel.Maps, func(m manifest.MapMeta) bool { return m.Name == n.name }); i >= 0 {
				if err := a.annotateMap(&skel.Maps[i], comment); err != nil {
					return err
				}
				break
			}
		}
		last = d.tag
		if n := len(d.names); n > 0 {
			last = d.names[n-1].comment
		}
	}
	return nil
}

func (a *annotator) annotateName(skel *manifest.Skeleton, n declaredName) error {
	if n.name == licenseVariable {
		doc := manifest.Doc{}
		skel.Doc = &doc
		return a.merge(&doc, manifest.Fields{}, n.comment, n.name)
	}
	for i := range skel.DataSections {
		vars := skel.DataSections[i].Variables
		for j := range vars {
			if v := &vars[j]; v.Name == n.name {
				fields := manifest.Fields{"name": jsonString(v.Name), "type": jsonString(v.Type)}
				setIf(fields, "value", v.Value)
				if v.Description != "" {
					fields["description"] = jsonString(v.Description)
				}
				if v.CmdArg != nil {
					// Said at an earlier declaration of the same name.
					fields["cmdarg"] = cmdArgJSON(v.CmdArg)
				}
				return a.merge(v, addFields(fields, v.Extra), n.comment, n.name)
			}
		}
	}
	for i := range skel.Progs {
		if p := &skel.Progs[i]; p.Name == n.name {
			fields := manifest.Fields{"name": jsonString(p.Name), "attach": jsonString(p.Attach), "link": json.RawMessage("true")}
			return a.merge(p, addFields(fields, p.Extra), n.comment, n.name)
		}
	}
	return nil
}

func (a *annotator) annotateMap(m *manifest.MapMeta, comment *docComment) error {
	if comment == nil {
		return nil
	}
	fields := manifest.Fields{"name": jsonString(m.Name), "ident": jsonString(m.Ident)}
	return a.merge(m, addFields(fields, m.Extra), comment, m.Name)
}

func addFields(fields, more manifest.Fields) manifest.Fields {
	for key, value := range more {
		fields[key] = value
	}
	return fields
}

func setIf(fields manifest.Fields, key string, value json.RawMessage) {
	if value != nil {
		fields[key] = value
	}
}

func cmdArgJSON(arg *manifest.CmdArg) json.RawMessage {
	fields := manifest.Fields{}
	setIf(fields, "default", arg.Default)
	for key, text := range map[string]string{"long": arg.Long, "short": arg.Short, "help": arg.Help} {
		if text != "" {
			fields[key] = jsonString(text)
		}
	}
	return objectJSON(addFields(fields, arg.Extra))
}

func jsonString(s string) json.RawMessage { return manifest.AppendJSONString(nil, s) }

// objectJSON returns the object of fields, each of which is JSON.
func objectJSON(fields manifest.Fields) json.RawMessage {
	b := []byte{'{'}
	for key, value := range fields {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(manifest.AppendJSONString(b, key), ':')
		b = append(b, value...)
	}
	return append(b, '}')
}

// merge fills what to points to from its fields and what a comment says of name.
// The comment wins.
func (a *annotator) merge(to json.Unmarshaler, fields manifest.Fields, comment *docComment, name string) error {
	for key, value := range a.values(comment, name) {
		// These are strings in every skeleton, and nothing can read another.
		if _, ours := fields[key]; ours && (key == "type" || key == "attach" || key == "ident") && value[0] != '"' {
			value = jsonString(string(value))
		}
		fields[key] = value
	}
	if variable, ok := to.(*manifest.Variable); ok {
		*variable = manifest.Variable{}
	}
	if err := to.UnmarshalJSON(objectJSON(fields)); err != nil {
		return fmt.Errorf("%s:%d: comment of %s: %w", a.file, comment.lines[0].line, name, err)
	}
	return nil
}

// values returns the values of a comment by their keys. The last text of a key
// is its value.
func (a *annotator) values(comment *docComment, name string) manifest.Fields {
	found, warnings := comment.annotations()
	values := manifest.Fields{}
	lines, notJSON := map[string]int{}, map[string]error{}
	warn := func(line int, format string, args ...any) {
		warnings = append(warnings, docWarning{line, fmt.Sprintf(format, args...)})
	}
	for _, n := range found {
		value, err := a.value(n, warn)
		notJSON[n.key] = err
		switch before, twice := lines[n.key]; {
		case !twice:
		case before == n.line:
			warn(n.line, "only the last piece of the text of @%s is kept: put text with @, \\, < or & between double quotes", n.key)
		default:
			warn(n.line, "this line replaces the @%s of line %d: a value stands on one line", n.key, before)
		}
		values[n.key], lines[n.key] = value, n.line
	}
	if value, ok := values[defaultKey]; ok && value[0] != '"' && value[0] != 'n' {
		warn(lines[defaultKey], "the @description of %s is no string but %s, which eunomia-bpf's runner refuses: put it between double quotes", name, value)
	}
	if value, ok := values["cmdarg"]; ok && value[0] != '{' {
		why := "it is no object"
		if err := notJSON["cmdarg"]; err != nil {
			why = "it is not JSON on one line: " + err.Error()
		}
		warn(lines["cmdarg"], "the @cmdarg of %s makes no option, and eunomia-bpf's runner refuses it: %s", name, why)
	}
	if value, ok := values["sample"]; ok {
		if err := json.Unmarshal(value, new(manifest.Sample)); err != nil {
			warn(lines["sample"], "runners refuse the @sample of %s: %v", name, err)
		}
	}
	if !a.said[comment] {
		a.said[comment] = true
		slices.SortStableFunc(warnings, func(x, y docWarning) int { return x.line - y.line })
		for _, w := range slices.Compact(warnings) {
			a.warn(fmt.Sprintf("%s:%d: warning: %s\n", a.file, w.line, w.text))
		}
	}
	return values
}

// value returns the JSON of an annotation: the text itself, if it is JSON, else
// a string, and then the error says why.
func (a *annotator) value(n annotation, warn func(int, string, ...any)) (json.RawMessage, error) {
	if n.block {
		return jsonString(n.text), nil
	}
	if nesting(n.text) > maxAnnotationNesting {
		warn(n.line, "arrays and objects lie in each other more than %d deep: the text is taken as a string", maxAnnotationNesting)
		return jsonString(n.text), nil
	}
	normal, err := normalizeJSON([]byte(n.text))
	if err == nil {
		return normal, nil
	}
	module := slog.String(ModuleAttr, documentParser)
	a.log.LogAttrs(context.Background(), slog.LevelWarn, "warning: text is not json: "+n.text, module)
	a.log.LogAttrs(context.Background(), slog.LevelWarn, " use it as a string", module)
	return jsonString(n.text), err
}

// nesting returns how deep brackets and braces lie in each other at most, those
// within strings included: a bound that needs no parser.
func nesting(text string) int {
	depth, deepest := 0, 0
	for _, c := range text {
		switch c {
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		}
	}
	return deepest
}
