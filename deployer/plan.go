// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

const (
	// minReadySeconds is how long a new instance must have been ready before
	// its predecessor goes.
	minReadySeconds = 5
	// revisionHistoryLimit is the number of revisions that are kept.
	revisionHistoryLimit = 10
)

// Action says what a verb does to a release.
type Action string

// The actions.
const (
	ActionCreated    Action = "created"
	ActionUpdated    Action = "updated"
	ActionUnchanged  Action = "unchanged"
	ActionRolledBack Action = "rolled back"
)

// DeployOptions say what a release is to be.
type DeployOptions struct {
	// Name of the release; "" is [DefaultName].
	Name    string
	Package *Package
	// Targets are where it runs; nil keeps those of an existing release.
	Targets *Targets
	// Args are the program's arguments; nil keeps those of an existing release,
	// an empty list clears them.
	Args []string
	// Attach are places of single programs. Those of a program take the place of
	// all that it has in an existing release, an empty target leaves it to the
	// package; what the release has for other programs is kept.
	Attach []manifest.Attach
	// Interface is the network interface of the programs that are attached to
	// one, but for those that Attach names; "" keeps that of an existing release,
	// and for a new one takes what the package says.
	Interface string
	// Image is the image with ebpm and ecli.
	Image string
	// ImagePlatforms are those of Image; nil where they are not known.
	ImagePlatforms []manifest.Platform
	// PullSecret is a Secret of type kubernetes.io/dockerconfigjson in the
	// namespace; "" keeps that of an existing release.
	PullSecret string
	// Registries is what this machine knows of registries. What the package's
	// registry needs reaches the nodes.
	Registries NodeConfig
	// IgnoreRequirements deploys also onto kernels that the package's author
	// excludes.
	IgnoreRequirements bool
	// ResetState lets maps start empty whose layout changed; else such an upgrade
	// is refused.
	ResetState bool
}

// Plan is a release as it is to be. Making one changes nothing.
type Plan struct {
	// DaemonSet is what will be applied, without the annotations that tell one
	// move from another.
	DaemonSet *appsv1.DaemonSet
	// Hash is that of the Pod template without annotations. A release with an
	// equal one is left as it is.
	Hash   string
	Action Action
	// Nodes are those where it will run, Skipped those where it will not.
	Nodes   []string
	Skipped []Skipped
	// Notes are sentences that a user should read first.
	Notes []string
	// Changes are the differences to the release as it is.
	Changes []string

	// Reference is the package's, with tag and digest.
	Reference manifest.Reference

	registries NodeConfig
	current    *release
}

// YAML returns the DaemonSet as a manifest that kubectl apply takes.
func (p *Plan) YAML() ([]byte, error) {
	b, err := json.Marshal(p.DaemonSet)
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	var object map[string]any
	if err := json.Unmarshal(b, &object); err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	delete(object, "status")
	out, err := yaml.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	return out, nil
}

// plan makes a Plan from options, the nodes of the cluster and the release as
// it is (nil when there is none) with its Pods. It is pure.
func plan(namespace string, o DeployOptions, nodes []Node, current *release, pods []corev1.Pod) (*Plan, error) {
	ref := o.Package.Reference
	if ref.Scheme != manifest.SchemeRegistry {
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("deploy %s: nodes pull from a registry, not from a layout on this machine", ref), "Push it first: ebpm push.")
	}
	if ref.Digest == "" {
		return nil, fmt.Errorf("deploy %s: the reference has no digest", ref)
	}
	if o.Image == "" {
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("deploy %s: the image of the runner is not known", ref), "Name it with --image or EBPM_IMAGE.")
	}
	p := &Plan{Reference: ref, Action: ActionCreated, registries: o.Registries.forRegistry(ref.Registry), current: current}
	in := podInput{namespace: namespace, release: o.Name, pkg: o.Package, args: o.Args, netInterface: o.Interface, image: o.Image, pullSecret: o.PullSecret}
	keptTargets := false
	switch {
	case o.Targets != nil:
		in.targets = *o.Targets
	case current != nil:
		in.targets, keptTargets = current.move.Targets, true
	}
	var err error
	if in.targets, err = in.targets.normal(); err != nil {
		return nil, err
	}
	if current != nil {
		if in.args == nil {
			in.args = current.move.Args
		}
		if in.netInterface == "" && o.Package.onInterface() {
			in.netInterface = current.move.Interface
		}
		if in.pullSecret == "" {
			in.pullSecret = pullSecretOf(&current.ds.Spec.Template.Spec)
		}
	}
	kept := keptAttach(o, current)
	in.attach = mergeAttach(kept, o.Attach)
	if in.nodes, p.Skipped, err = in.targets.selectNodes(o.Package, nodes, keptTargets); err != nil {
		return nil, err
	}
	for _, n := range in.nodes {
		p.Nodes = append(p.Nodes, n.Name)
	}
	if err := p.checkImage(o, in.nodes); err != nil {
		return nil, err
	}
	if err := p.checkNodes(o, in); err != nil {
		return nil, err
	}
	spec, err := podSpec(in)
	if err != nil && len(kept) > 0 && manifest.KindOf(err) == manifest.KindUsage {
		err = manifest.WithKind(manifest.KindUsage, err, fmt.Sprintf("The release had %s before; --attach %s= takes that away.", quoteAttach(kept), kept[0].Program))
	}
	if err != nil {
		return nil, err
	}
	labels := map[string]string{labelManagedBy: managedBy, labelRelease: o.Name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}
	if p.Hash, err = hashTemplate(template); err != nil {
		return nil, err
	}
	if template.Annotations, err = p.annotations(in); err != nil {
		return nil, err
	}
	p.DaemonSet = &appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: namespace, Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector:             &metav1.LabelSelector{MatchLabels: map[string]string{labelManagedBy: managedBy, labelRelease: o.Name}},
			Template:             template,
			MinReadySeconds:      minReadySeconds,
			RevisionHistoryLimit: new(int32(revisionHistoryLimit)),
		},
	}
	next := version{"the new version", readMove(template.Annotations), &p.DaemonSet.Spec.Template.Spec}
	e := current.exclusiveIn(next, in.nodes)
	p.DaemonSet.Spec.UpdateStrategy = strategy(in.nodes, e)
	if current == nil {
		return p, nil
	}
	u := upgradeFrom(current.running(pods), next, in.nodes, e)
	reset := o.ResetState && u.mayReset()
	setReset(next.spec, reset)
	p.compare(in, reset)
	if p.Action == ActionUnchanged {
		return p, nil
	}
	if len(u.reset) > 0 && !o.ResetState {
		return nil, u.refuse(o.Name, "deploy")
	}
	p.Notes = append(p.Notes, u.notes...)
	return p, nil
}

// keptAttach returns the places that programs have in a release and that o does
// not replace, be it by naming the program or by an interface for all of them.
func keptAttach(o DeployOptions, current *release) []manifest.Attach {
	if current == nil {
		return nil
	}
	var kept []manifest.Attach
	for _, a := range current.move.Attach {
		named := slices.ContainsFunc(o.Attach, func(b manifest.Attach) bool { return b.Program == a.Program })
		if !named && (o.Interface == "" || !o.Package.isOnInterface(a.Program)) {
			kept = append(kept, a)
		}
	}
	return kept
}

// mergeAttach returns kept and added, by the names of the programs: the order
// of flags makes no difference.
func mergeAttach(kept, added []manifest.Attach) []manifest.Attach {
	all := slices.Clone(kept)
	for _, a := range added {
		if a.Target != "" {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b manifest.Attach) int {
		return cmp.Or(strings.Compare(a.Program, b.Program), strings.Compare(a.Target, b.Target))
	})
	return all
}

func quoteAttach(attach []manifest.Attach) string {
	var words []string
	for _, a := range attach {
		words = append(words, fmt.Sprintf("%q", a.String()))
	}
	return strings.Join(words, " ")
}

// checkImage refuses nodes for whose architecture there is no runner, which would
// wait for their image for ever.
func (p *Plan) checkImage(o DeployOptions, nodes []Node) error {
	var refused, architectures []string
	for _, n := range nodes {
		architectures = append(architectures, n.Architecture)
		if !slices.Contains(o.ImagePlatforms, manifest.Platform{OS: n.OS, Architecture: n.Architecture}) {
			refused = append(refused, fmt.Sprintf("node %s is %s", n.Name, n.Architecture))
		}
	}
	if o.ImagePlatforms == nil {
		slices.Sort(architectures)
		if architectures = slices.Compact(architectures); len(architectures) > 1 {
			p.Notes = append(p.Notes, fmt.Sprintf("The nodes are %s; whether the runner's image %s is for all of these cannot be told from here.", strings.Join(architectures, " and "), o.Image))
		}
		return nil
	}
	if len(refused) > 0 {
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s; the runner's image %s is for %s", strings.Join(refused, "; "), o.Image, platformList(o.ImagePlatforms)),
			"`make images` builds it for linux/amd64 and linux/arm64: name that one with --image or EBPM_IMAGE.")
	}
	return nil
}

func platformList(platforms []manifest.Platform) string {
	if len(platforms) == 0 {
		return "no platform of Linux"
	}
	var words []string
	for _, p := range platforms {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

// checkNodes refuses nodes that cannot run the package, and notes what may go
// wrong on others.
func (p *Plan) checkNodes(o DeployOptions, in podInput) error {
	_, memory := in.memory()
	var refused, old, down []string
	for _, n := range in.nodes {
		if r := o.Package.platform(n.Architecture).Config.Requires; r != nil && !o.IgnoreRequirements {
			ok, err := r.AllowsKernel(n.Kernel)
			if err != nil {
				return fmt.Errorf("node %s: %w", n.Name, err)
			}
			if !ok {
				refused = append(refused, fmt.Sprintf("node %s has kernel %s, the package requires %s", n.Name, n.Kernel, r.Kernel))
			}
		}
		if n.Memory > 0 && memory > uint64(n.Memory) {
			return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("node %s: the package needs %s of memory for its maps and its runner, Pods may have %s there", n.Name, mebibytes(memory), mebibytes(uint64(n.Memory))), "")
		}
		if n.blocksBPF() {
			old = append(old, n.Name+" ("+n.Runtime+")")
		}
		if !n.Ready {
			down = append(down, n.Name)
		}
	}
	if len(refused) > 0 {
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s", strings.Join(refused, "; ")), "Vendors backport features: --ignore-requirements deploys all the same.")
	}
	if len(old) > 0 {
		p.Notes = append(p.Notes, "The default seccomp profile of containerd before 1.6.20 refuses bpf(2); it will fail on: "+strings.Join(old, ", ")+".")
	}
	if len(down) > 0 {
		p.Notes = append(p.Notes, "Not ready now, so not waited for: "+strings.Join(down, ", ")+".")
	}
	if p.Reference.IsLoopback() {
		p.Notes = append(p.Notes, fmt.Sprintf("%s is each node's own address: nodes will not reach a registry on this machine by it.", p.Reference.Registry))
	}
	if !strings.Contains(o.Image, "@sha256:") {
		p.Notes = append(p.Notes, fmt.Sprintf("The runner's image %s has no digest: nodes may run different ones.", o.Image))
	}
	return nil
}

func mebibytes(n uint64) string { return fmt.Sprintf("%d MiB", n>>20) }

// hashTemplate hashes a template as a plan makes it: before the server's
// defaults and without annotations.
func hashTemplate(template corev1.PodTemplateSpec) (string, error) {
	template.Annotations = nil
	b, err := json.Marshal(template)
	if err != nil {
		return "", fmt.Errorf("hash plan: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func (p *Plan) annotations(in podInput) (map[string]string, error) {
	first := in.pkg.Platforms[0]
	programs := []manifest.ProgramStatus{}
	for _, program := range first.Object.Programs {
		programs = append(programs, manifest.ProgramStatus{Name: program.Name, Section: program.Section})
	}
	a := map[string]string{
		annotationReference:        p.Reference.String(),
		annotationTag:              p.Reference.Tag,
		annotationDigest:           p.Reference.Digest.String(),
		annotationTargets:          encode(in.targets),
		annotationArgs:             encode(append([]string{}, in.args...)),
		annotationColumns:          encode(append([]string{}, first.Columns...)),
		annotationPrograms:         encode(programs),
		annotationPlan:             p.Hash,
		annotationDefaultContainer: containerRun,
	}
	if h, ok := first.Meta.Histogram(); ok {
		a[annotationHistogram] = encode(h)
	}
	if len(in.attach) > 0 {
		a[annotationAttach] = encode(in.attach)
	}
	if in.netInterface != "" {
		a[annotationInterface] = in.netInterface
	}
	if name := in.pkg.exclusive(); name != "" {
		a[annotationExclusive] = name
	}
	state, err := in.pkg.state()
	if err != nil {
		return nil, err
	}
	a[annotationState] = encode(state)
	a[annotationMoves] = encode(in.pkg.moves())
	return a, nil
}

// encode returns a value of strings, bools, lists and maps as JSON.
func encode(value any) string {
	b, err := json.Marshal(value)
	if err != nil {
		panic(err) // such a value always encodes
	}
	return string(b)
}

// strategy returns how a rollout goes: the new instance beside the old one, on
// a quarter of the nodes at a time, or, where an exclusive program that is not
// handed over forbids that, after it, on one node at a time. Kubernetes counts nodes that were down before
// against the bound, so they are added to it.
func strategy(nodes []Node, e exclusive) appsv1.DaemonSetUpdateStrategy {
	down := 0
	for _, n := range nodes {
		if !n.Ready {
			down++
		}
	}
	rolling := &appsv1.RollingUpdateDaemonSet{
		MaxSurge:       new(intstr.FromInt32(int32((len(nodes)+3)/4 + down))),
		MaxUnavailable: new(intstr.FromInt32(0)),
	}
	if e.program != "" {
		rolling.MaxSurge = new(intstr.FromInt32(0))
		rolling.MaxUnavailable = new(intstr.FromInt32(int32(1 + down)))
	}
	return appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: rolling}
}

// compare sets Action and Changes against the release as it is. An instance that
// waits for the permission to reset is another one once it has it.
func (p *Plan) compare(in podInput, reset bool) {
	was := p.current.move
	if was.Plan == p.Hash && !p.current.edited() && (!reset || p.current.version().resets()) {
		p.Action = ActionUnchanged
		if was.Tag != p.Reference.Tag {
			p.Notes = append(p.Notes, fmt.Sprintf("%s is the digest that runs already, deployed as %q.", p.Reference, was.Tag))
		}
		return
	}
	p.Action = ActionUpdated
	differ := func(what, from, to string) {
		if from != to {
			p.Changes = append(p.Changes, fmt.Sprintf("%s: %s -> %s", what, from, to))
		}
	}
	old, now := &p.current.ds.Spec.Template.Spec, &p.DaemonSet.Spec.Template.Spec
	differ("tag", was.Tag, p.Reference.Tag)
	differ("digest", was.Digest, p.Reference.Digest.String())
	differ("arguments", quoteArgs(was.Args), quoteArgs(in.args))
	differ("attach", "["+quoteAttach(was.Attach)+"]", "["+quoteAttach(in.attach)+"]")
	differ("interface", was.Interface, in.netInterface)
	if !was.Targets.Equal(in.targets) {
		differ("targets", was.Targets.String(), in.targets.String())
		p.Notes = append(p.Notes, "Targets are part of the Pods: changing them restarts every instance.")
	}
	differ("image", imageOf(old), imageOf(now))
	differ("pull secret", pullSecretOf(old), pullSecretOf(now))
	differ("memory", memoryOf(old), memoryOf(now))
	differ("capabilities", capabilitiesOf(old), capabilitiesOf(now))
	differ("host network", strconv.FormatBool(old.HostNetwork), strconv.FormatBool(now.HostNetwork))
	differ("host PID namespace", strconv.FormatBool(old.HostPID), strconv.FormatBool(now.HostPID))
	differ("host paths", hostPathsOf(old), hostPathsOf(now))
	differ("tolerations", tolerationsOf(old), tolerationsOf(now))
	differ("command", commandOf(old), commandOf(now))
	if p.current.edited() {
		p.Notes = append(p.Notes, "The Pod template was edited outside ebpm; that edit goes.")
	}
	if len(p.Changes) == 0 {
		p.Changes = append(p.Changes, fmt.Sprintf("the Pod's other fields: as ebpm %s writes them -> as this ebpm does", was.Version))
	}
}

func quoteArgs(args []string) string {
	var words []string
	for _, a := range args {
		words = append(words, fmt.Sprintf("%q", a))
	}
	return "[" + strings.Join(words, " ") + "]"
}

func runner(s *corev1.PodSpec) *corev1.Container {
	for i := range s.Containers {
		if s.Containers[i].Name == containerRun {
			return &s.Containers[i]
		}
	}
	return &corev1.Container{}
}

func imageOf(s *corev1.PodSpec) string { return runner(s).Image }

func memoryOf(s *corev1.PodSpec) string { return runner(s).Resources.Limits.Memory().String() }

func commandOf(s *corev1.PodSpec) string { return quoteArgs(runner(s).Command) }

func capabilitiesOf(s *corev1.PodSpec) string {
	c := runner(s).SecurityContext
	if c == nil || c.Capabilities == nil {
		return ""
	}
	var words []string
	for _, add := range c.Capabilities.Add {
		words = append(words, string(add))
	}
	return strings.Join(words, "+")
}

func pullSecretOf(s *corev1.PodSpec) string {
	for _, v := range s.Volumes {
		if v.Name == "registry" && v.Secret != nil {
			return v.Secret.SecretName
		}
	}
	return ""
}

func hostPathsOf(s *corev1.PodSpec) string {
	var paths []string
	for _, v := range s.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	slices.Sort(paths)
	return strings.Join(paths, " ")
}

func tolerationsOf(s *corev1.PodSpec) string {
	var words []string
	for _, t := range s.Tolerations {
		words = append(words, strings.Trim(t.Key+"="+t.Value+":"+string(t.Effect), "=:"))
	}
	return "[" + strings.Join(words, " ") + "]"
}
