// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/ebpm/ebpm/manifest"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Paths inside the Pod.
const (
	pathPackage    = "/package"
	pathSocket     = "/run/ebpm"
	pathReady      = pathSocket + "/ready.sock"
	pathStore      = "/var/lib/ebpm/store"
	pathNodeConfig = "/etc/ebpm"
	pathRegistry   = "/run/ebpm-registry"
	pathHandover   = "/handover"
)

// pathInstances is the folder of a node under which the instances of a release
// meet, in NAMESPACE/RELEASE. It does not outlive the node's boot, as nothing of
// an instance does.
const pathInstances = "/run/ebpm"

// startSeconds bounds the start of an instance that hands over. It ends itself
// when it has not taken over within 60 s, and says why; this is for one that does
// not get so far.
const startSeconds = 90

// Memory, in bytes. Request and limit are equal, so that an instance never
// takes what other Pods were promised, nor is ended for what they take.
const (
	// memoryBase is a runner with the types of the kernel decoded: 10 MiB were
	// seen with 5 MiB of types, and other kernels have up to three times that.
	memoryBase = 48 << 20
	// memoryReady is one ecli ready, which runs inside the same limit.
	memoryReady = 16 << 20
	// memoryPull is what ebpm pull takes beside the package: 32 MiB were seen.
	memoryPull = 64 << 20
	// memorySymbols is what the names of functions take, where stacks have them:
	// the runner bounds what it keeps, and the heap of a Go program has twice that.
	memorySymbols = 96 << 20
	// memoryStep is what the sum is rounded up to, so that a plan does not
	// change with every byte of an object.
	memoryStep = 16 << 20
)

// podInput is what a Pod is made of.
type podInput struct {
	namespace    string
	release      string
	pkg          *Package
	targets      Targets
	nodes        []Node // those that match now
	args         []string
	attach       []manifest.Attach
	netInterface string
	image        string
	pullSecret   string
}

// rights returns what the programs need on the oldest kernel of the nodes, over
// all platforms of the package.
func (in podInput) rights() (manifest.Rights, error) {
	capabilities, mounts := map[string]bool{}, map[manifest.Mount]bool{}
	var rights manifest.Rights
	for _, p := range in.pkg.Platforms {
		targets, err := p.Object.Targets(p.Meta, in.netInterface, in.attach)
		if err != nil {
			return manifest.Rights{}, fmt.Errorf("deploy %s: %w", in.pkg.Reference, err)
		}
		needs, err := p.Object.NeedsOf(p.Meta, oldestKernel(in.nodes), targets)
		if err != nil {
			return manifest.Rights{}, fmt.Errorf("package for %s: %w", p.Platform, err)
		}
		for _, c := range needs.Rights.Capabilities {
			capabilities[c] = true
		}
		for _, m := range needs.Rights.Mounts {
			mounts[m] = true
		}
		rights.HostNetwork = rights.HostNetwork || needs.Rights.HostNetwork
		rights.HostPID = rights.HostPID || needs.Rights.HostPID
	}
	for c := range capabilities {
		rights.Capabilities = append(rights.Capabilities, c)
	}
	slices.Sort(rights.Capabilities)
	for m := range mounts {
		rights.Mounts = append(rights.Mounts, m)
	}
	slices.SortFunc(rights.Mounts, func(a, b manifest.Mount) int { return strings.Compare(a.HostPath, b.HostPath) })
	return rights, nil
}

// oldestKernel returns the release of the oldest kernel, or "" when none has a
// version.
func oldestKernel(nodes []Node) string {
	var oldest *semver.Version
	var release string
	for _, n := range nodes {
		v, err := manifest.KernelVersion(n.Kernel)
		if err == nil && (oldest == nil || v.LessThan(oldest)) {
			oldest, release = v, n.Kernel
		}
	}
	return release
}

// memory returns the limits, in bytes, of the init container and of the runner.
// Maps are charged to the process that makes them; some have one value a CPU.
func (in podInput) memory() (pull, run uint64) {
	cpus := 1
	for _, n := range in.nodes {
		cpus = max(cpus, n.CPUs)
	}
	var maps, object, packageJSON, btf, symbols uint64
	for _, p := range in.pkg.Platforms {
		maps = max(maps, p.Object.MemoryBytes(cpus))
		object = max(object, uint64(p.ObjectSize))
		packageJSON = max(packageJSON, uint64(p.PackageSize))
		if p.BTFSize > 0 {
			// The types of one kernel are read out of it.
			btf = max(btf, 2*uint64(p.BTFSize)+manifest.MaxBTFSize)
		}
		// What it does not know is refused where rights are derived.
		if ok, err := p.Meta.StackSymbols(); ok && err == nil {
			symbols = memorySymbols
		}
	}
	round := func(n uint64) uint64 { return (n + memoryStep - 1) / memoryStep * memoryStep }
	if maps > math.MaxInt64/2 {
		return 0, math.MaxUint64
	}
	// Each is held decoded and encoded while it is read.
	return round(memoryPull + 8*packageJSON + btf), round(memoryBase + memoryReady + symbols + 8*object + maps)
}

func quantity(bytes uint64) resource.Quantity {
	return *resource.NewQuantity(int64(bytes), resource.BinarySI)
}

func resources(memory uint64) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		// No limit of CPU: a throttled reader loses events.
		Requests: corev1.ResourceList{corev1.ResourceMemory: quantity(memory), corev1.ResourceCPU: resource.MustParse("10m")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: quantity(memory)},
	}
}

// securityContext allows a container nothing but the capabilities that it is
// given. It runs as uid 0 because the kernel gives capabilities to a program
// that is started by another uid only through file capabilities; without
// CAP_DAC_OVERRIDE that is the right to root's own files.
func securityContext(capabilities []string) *corev1.SecurityContext {
	var add []corev1.Capability
	for _, c := range capabilities {
		add = append(add, corev1.Capability(c))
	}
	return &corev1.SecurityContext{
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: add},
		RunAsUser:                new(int64(0)),
		ReadOnlyRootFilesystem:   new(true),
		AllowPrivilegeEscalation: new(false),
	}
}

func hostPath(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind},
	}}
}

func emptyDir(name string, limit int64) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(limit, resource.BinarySI)},
	}}
}

// podSpec returns the Pod of an instance. It has two parts of different rights:
// the init container reads what a registry sends and may do nothing; the runner
// may do what the programs need and reads only what the init container wrote.
func podSpec(in podInput) (corev1.PodSpec, error) {
	rights, err := in.rights()
	if err != nil {
		return corev1.PodSpec{}, err
	}
	pullMemory, runMemory := in.memory()

	pull := corev1.Container{
		Name:    containerPull,
		Image:   in.image,
		Command: []string{"ebpm", "pull", literal(in.pkg.Reference.Pinned().String()), "-o", pathPackage, "--canonical"},
		Env:     []corev1.EnvVar{{Name: "EBPM_CONFIG", Value: pathNodeConfig + "/config.yaml"}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "package", MountPath: pathPackage},
			// The node's cache, which only this container can write.
			{Name: "store", MountPath: pathStore},
			{Name: "node", MountPath: pathNodeConfig, ReadOnly: true},
		},
		Resources:                resources(pullMemory),
		SecurityContext:          securityContext(nil),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	run := corev1.Container{
		Name:    containerRun,
		Image:   in.image,
		Command: []string{"ecli", "run", "-j", "--strict", "--ready", pathReady, "--termination-log", corev1.TerminationMessagePathDefault},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "package", MountPath: pathPackage, ReadOnly: true},
			{Name: "run", MountPath: pathSocket},
		},
		Resources:                resources(runMemory),
		SecurityContext:          securityContext(rights.Capabilities),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		// Asked each second while it starts, so that a rollout need not wait;
		// after that rarely, and generously: Kubernetes ends an old instance as
		// soon as it is not ready, also while its successor fails.
		StartupProbe:   readyProbe(1, 3600),
		ReadinessProbe: readyProbe(10, 3),
	}
	packageLimit := int64(manifest.MaxPackageSize + manifest.MaxPackageSize/2)
	if in.pkg.hasBTF() {
		// The init container writes the file where the kernel does not show its
		// types; elsewhere the runner takes the kernel's own.
		run.Env = append(run.Env, corev1.EnvVar{Name: "BTF_FILE_PATH", Value: pathPackage + "/" + manifest.KernelBTFFile})
		packageLimit += manifest.MaxBTFSize
	}
	volumes := []corev1.Volume{
		emptyDir("package", packageLimit),
		emptyDir("run", 1<<20),
		hostPath("store", pathStore, corev1.HostPathDirectoryOrCreate),
		{Name: "node", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: NodeConfigMap},
			Optional:             new(true),
		}}},
	}
	var pullSecrets []corev1.LocalObjectReference
	if in.pullSecret != "" {
		// The credentials reach the init container alone, and the kubelet, which
		// may need them for the runner's image.
		pull.Env = append(pull.Env, corev1.EnvVar{Name: "DOCKER_CONFIG", Value: pathRegistry})
		pull.VolumeMounts = append(pull.VolumeMounts, corev1.VolumeMount{Name: "registry", MountPath: pathRegistry, ReadOnly: true})
		volumes = append(volumes, corev1.Volume{Name: "registry", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName:  in.pullSecret,
			Items:       []corev1.KeyToPath{{Key: corev1.DockerConfigJsonKey, Path: "config.json"}},
			DefaultMode: new(int32(0o400)),
		}}})
		pullSecrets = []corev1.LocalObjectReference{{Name: in.pullSecret}}
	}
	for i, m := range rights.Mounts {
		mount := corev1.VolumeMount{Name: fmt.Sprintf("host-%d", i), MountPath: m.MountPath, ReadOnly: true}
		if m.HostPath == "/" {
			// Without it, file systems mounted below / stay writable.
			mount.RecursiveReadOnly = new(corev1.RecursiveReadOnlyIfPossible)
			run.Command = append(run.Command, "--root", m.MountPath)
		}
		run.VolumeMounts = append(run.VolumeMounts, mount)
		volumes = append(volumes, hostPath(mount.Name, m.HostPath, corev1.HostPathDirectory))
	}
	if in.pkg.handsOver() {
		volumes = append(volumes, hostPath("handover", path.Join(pathInstances, in.namespace, in.release), corev1.HostPathDirectoryOrCreate))
		run.VolumeMounts = append(run.VolumeMounts, corev1.VolumeMount{Name: "handover", MountPath: pathHandover})
		run.Env = append(run.Env, corev1.EnvVar{Name: "EBPM_REVISION", ValueFrom: &corev1.EnvVarSource{
			// It rises with each change of the template, also with one that goes back.
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + labelGeneration + "']"},
		}})
		run.Command = append(run.Command, flagHandover, pathHandover)
		for _, word := range in.pkg.carry().Words() {
			run.Command = append(run.Command, "--carry", literal(word))
		}
		run.StartupProbe = readyProbe(1, startSeconds)
	}
	for _, a := range in.attach {
		run.Command = append(run.Command, "--attach", literal(a.String()))
	}
	if in.netInterface != "" {
		run.Command = append(run.Command, "--interface", literal(in.netInterface))
	}
	run.Command = append(run.Command, pathPackage+"/"+manifest.PackageFile)
	// Whatever follows the package is the program's.
	for _, arg := range in.args {
		run.Args = append(run.Args, literal(arg))
	}

	spec := corev1.PodSpec{
		InitContainers:   []corev1.Container{pull},
		Containers:       []corev1.Container{run},
		Volumes:          volumes,
		ImagePullSecrets: pullSecrets,
		Affinity:         in.targets.affinity(in.pkg.architectures()),
		Tolerations:      tolerations(in.nodes),
		// Nothing in it talks to the API server.
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		SecurityContext: &corev1.PodSecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			// SELinux gives bpf(2) to no confined container type; spc_t is the
			// one for containers that act on the node. It is ignored elsewhere.
			SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"},
		},
	}
	if in.targets.All {
		// As node agents do: every node is every node.
		spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	spec.HostPID = rights.HostPID
	if rights.HostNetwork {
		// Else the programs would attach to the Pod's own interfaces. No port is
		// declared: with hostNetwork it would be the node's, and an upgrade
		// would wait for the old instance to let go of it.
		spec.HostNetwork = true
		spec.DNSPolicy = corev1.DNSClusterFirstWithHostNet
	}
	return spec, nil
}

// literal returns a word of a command such that Kubernetes hands it over as it
// is: it replaces $(NAME), and takes $$ for a dollar.
func literal(word string) string { return strings.ReplaceAll(word, "$", "$$") }

func readyProbe(period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ecli", "ready", pathReady}}},
		PeriodSeconds:    period,
		TimeoutSeconds:   5,
		FailureThreshold: failures,
	}
}
