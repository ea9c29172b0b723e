// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ebpm/ebpm/manifest"
	corev1 "k8s.io/api/core/v1"
)

// Targets say on which nodes a release runs: all, or some by name.
type Targets struct {
	All   bool     `json:"all,omitempty"`
	Nodes []string `json:"nodes,omitempty"`
}

// String returns t as the flags that set it.
func (t Targets) String() string {
	if t.All {
		return "--all"
	}
	return "--node " + strings.Join(t.Nodes, " --node ")
}

// Equal reports whether both say the same.
func (t Targets) Equal(u Targets) bool { return t.All == u.All && slices.Equal(t.Nodes, u.Nodes) }

func (t Targets) normal() (Targets, error) {
	nodes := slices.Clone(t.Nodes)
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	switch {
	case t.All && len(nodes) > 0:
		return t, manifest.WithKind(manifest.KindUsage, fmt.Errorf("targets: --all and --node %s exclude each other", nodes[0]), "")
	case !t.All && len(nodes) == 0:
		return t, manifest.WithKind(manifest.KindUsage, errors.New("targets: none given"), "Say where it is to run: --all, or --node NODE (repeatable).")
	}
	return Targets{All: t.All, Nodes: nodes}, nil
}

// Skipped is a node that a release does not run on, and why.
type Skipped struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// selectNodes returns the nodes of t that the package can run on, sorted by
// name. A node that was named must exist and have an architecture of the
// package; kept says that the names are those of an existing release, of which
// some may have gone.
func (t Targets) selectNodes(pkg *Package, nodes []Node, kept bool) (selected []Node, skipped []Skipped, err error) {
	why := func(n Node) string {
		if n.OS != "linux" {
			return "its system is " + n.OS + ", not linux"
		}
		if pkg.platform(n.Architecture) == nil {
			return fmt.Sprintf("it is %s, the package is for %s", n.Architecture, strings.Join(pkg.architectures(), ", "))
		}
		return ""
	}
	if t.All {
		for _, n := range nodes {
			if w := why(n); w != "" {
				skipped = append(skipped, Skipped{Node: n.Name, Why: w})
				continue
			}
			selected = append(selected, n)
		}
	}
	for _, name := range t.Nodes {
		i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == name })
		if i < 0 {
			if kept {
				skipped = append(skipped, Skipped{Node: name, Why: "it is no longer in the cluster"})
				continue
			}
			return nil, nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("node %s: it does not exist", name), nodesAdvice(nodes))
		}
		if w := why(nodes[i]); w != "" {
			return nil, nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("node %s: %s", name, w), "")
		}
		selected = append(selected, nodes[i])
	}
	if len(selected) == 0 {
		var words []string
		for _, s := range skipped {
			words = append(words, s.Node+": "+s.Why)
		}
		reason := ""
		if len(words) > 0 {
			reason = " (" + strings.Join(words, "; ") + ")"
		}
		return nil, nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("targets %s: no node matches%s", t, reason), "")
	}
	byName := func(a, b Node) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(selected, byName)
	slices.SortFunc(skipped, func(a, b Skipped) int { return strings.Compare(a.Node, b.Node) })
	return selected, skipped, nil
}

func nodesAdvice(nodes []Node) string {
	const most = 10
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	more := ""
	if len(names) > most {
		names, more = names[:most], ", ..."
	}
	return "The cluster has: " + strings.Join(names, ", ") + more + "."
}

// affinity returns t as what the scheduler requires.
func (t Targets) affinity(architectures []string) *corev1.Affinity {
	var terms []corev1.NodeSelectorTerm
	if t.All {
		terms = append(terms, corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelOSStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"linux"}},
			{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: architectures},
		}})
	}
	// A field selector takes exactly one value; terms are alternatives.
	for _, name := range t.Nodes {
		terms = append(terms, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
		}})
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
	}}
}

// matching returns the nodes that an affinity made by [Targets] allows.
func matching(a *corev1.Affinity, nodes []Node) []Node {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nodes
	}
	has := func(n Node, key string, values []string) bool {
		switch key {
		case corev1.LabelOSStable:
			return slices.Contains(values, n.OS)
		case corev1.LabelArchStable:
			return slices.Contains(values, n.Architecture)
		case "metadata.name":
			return slices.Contains(values, n.Name)
		}
		return false
	}
	allows := func(n Node) bool {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			ok := true
			for _, r := range slices.Concat(term.MatchExpressions, term.MatchFields) {
				ok = ok && r.Operator == corev1.NodeSelectorOpIn && has(n, r.Key, r.Values)
			}
			if ok {
				return true
			}
		}
		return false
	}
	var matched []Node
	for _, n := range nodes {
		if allows(n) {
			matched = append(matched, n)
		}
	}
	return matched
}
