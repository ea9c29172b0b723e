// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// licenseVariable is the variable whose comment documents the whole program.
const licenseVariable = "LICENSE"

// annotate puts the @description and @cmdarg of the source's documentation
// comments into its skeleton. file is the source's name in errors.
func annotate(skel *manifest.Skeleton, source []byte, file string) error {
	var last *docComment // of the entity before
	for _, d := range declarationsOf(source) {
		for _, n := range d.names {
			if n.comment == nil {
				continue
			}
			if err := annotateName(skel, n, file); err != nil {
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
			if m := findMap(skel, n.name); m != nil {
				describeMap(m, comment)
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

func annotateName(skel *manifest.Skeleton, n declaredName, file string) error {
	if n.name == licenseVariable {
		skel.Doc = &manifest.Doc{}
		if text, ok := description(n.comment); ok {
			skel.Doc.Description = manifest.AppendJSONString(nil, text)
		}
		return nil
	}
	for i := range skel.DataSections {
		vars := skel.DataSections[i].Variables
		for j := range vars {
			if vars[j].Name == n.name {
				return annotateVariable(&vars[j], n.comment, file)
			}
		}
	}
	for i := range skel.Progs {
		if p := &skel.Progs[i]; p.Name == n.name {
			setDescription(&p.Extra, n.comment)
		}
	}
	return nil
}

func annotateVariable(v *manifest.Variable, comment *docComment, file string) error {
	for _, a := range comment.annotations() {
		switch a.key {
		case "description":
			v.Description = plainText(a.text)
		case "cmdarg":
			normal, err := normalizeJSON([]byte(a.text))
			if err != nil {
				return fmt.Errorf("%s:%d: @cmdarg of %s is not JSON on one line: %w", file, a.line, v.Name, err)
			}
			var arg manifest.CmdArg
			if err := json.Unmarshal(normal, &arg); err != nil {
				return fmt.Errorf("%s:%d: @cmdarg of %s: %w", file, a.line, v.Name, err)
			}
			v.CmdArg = &arg
		}
	}
	return nil
}

func findMap(skel *manifest.Skeleton, name string) *manifest.MapMeta {
	for i := range skel.Maps {
		if skel.Maps[i].Name == name {
			return &skel.Maps[i]
		}
	}
	return nil
}

func describeMap(m *manifest.MapMeta, comment *docComment) {
	if comment != nil {
		setDescription(&m.Extra, comment)
	}
}

func setDescription(fields *manifest.Fields, comment *docComment) {
	text, ok := description(comment)
	if !ok {
		return
	}
	if *fields == nil {
		*fields = manifest.Fields{}
	}
	(*fields)["description"] = manifest.AppendJSONString(nil, text)
}

// description returns the last description of a comment.
func description(c *docComment) (text string, ok bool) {
	for _, a := range c.annotations() {
		if a.key == defaultKey {
			text, ok = plainText(a.text), true
		}
	}
	return text, ok
}

// plainText takes the quotes off a JSON string. Other JSON stays text: upstream
// stores a number as one, which its runner then refuses.
func plainText(text string) string {
	var s string
	if strings.HasPrefix(text, `"`) && json.Unmarshal([]byte(text), &s) == nil {
		return s
	}
	return text
}
