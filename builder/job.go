// SPDX-License-Identifier: Apache-2.0

//go:build !node

package builder

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// DefaultNamespace is where builds run.
const DefaultNamespace = "ebpm-build"

const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedByEbpm  = "ebpm"
	// buildLabel has the name of the package.
	buildLabel = "ebpm.io/build"
	// referenceAnnotation and sourceAnnotation say what a Job makes of what.
	referenceAnnotation = "ebpm.io/reference"
	sourceAnnotation    = "ebpm.io/source"

	// nobody is a user and group that no file of the images belongs to.
	nobody = 65532

	sourceMount = "/source"
	outMount    = "/out"
	configMount = "/etc/ebpm"
	dockerMount = "/etc/ebpm-docker"
	configKey   = "config.yaml"
	caKey       = "ca.crt"

	// jobTTL keeps the Job of a command that died; a command that lives takes
	// its Job away itself.
	jobTTL = 10 * time.Minute
	// stopGrace is what a step gets to end by itself when its Job is deleted.
	stopGrace = 5
)

// The containers of a build, in their order.
const (
	pullContainer    = "pull"
	compileContainer = "ecc"
	pushContainer    = "push"
)

// Objects are what a build makes in a cluster.
type Objects struct {
	// Job is suspended until the other objects, which it owns, are there.
	Job *batchv1.Job
	// ConfigMap has the configuration of ebpm in the Job.
	ConfigMap *corev1.ConfigMap
	// Secret has the credentials of the target's registry; nil where there are
	// none.
	Secret *corev1.Secret
}

// Plan returns the objects of a build of s from the source that was pushed as
// source. id tells the builds of a package apart. It is pure: no cluster is
// asked.
func (k *Kubernetes) Plan(s *Source, o Options, source manifest.Reference, id string) (*Objects, error) {
	meta := metav1.ObjectMeta{
		Name:      jobName(s.Spec.Name, id),
		Namespace: k.namespace(),
		Labels:    map[string]string{managedByLabel: managedByEbpm, buildLabel: labelValue(s.Spec.Name)},
		Annotations: map[string]string{
			referenceAnnotation: o.Ref.String(),
			sourceAnnotation:    source.Pinned().String(),
		},
	}
	config, err := k.clientConfig(o.Ref.Registry)
	if err != nil {
		return nil, err
	}
	objects := Objects{
		Job: &batchv1.Job{
			TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
			ObjectMeta: meta,
			Spec: batchv1.JobSpec{
				Suspend:                 new(true),
				BackoffLimit:            new(int32(0)),
				ActiveDeadlineSeconds:   new(int64(k.timeout().Seconds())),
				TTLSecondsAfterFinished: new(int32(jobTTL.Seconds())),
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels},
					Spec:       k.podSpec(s, o, source, meta.Name),
				},
			},
		},
		ConfigMap: &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: meta.Name, Namespace: meta.Namespace, Labels: meta.Labels},
			Immutable:  new(true),
			Data:       config,
		},
	}
	if k.DockerConfig != nil {
		objects.Secret = &corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Name: meta.Name, Namespace: meta.Namespace, Labels: meta.Labels},
			Immutable:  new(true),
			Type:       corev1.SecretTypeDockerConfigJson,
			Data:       map[string][]byte{corev1.DockerConfigJsonKey: k.DockerConfig},
		}
	}
	return &objects, nil
}

// clientConfig is the configuration that ebpm reads in the Job: how to reach the
// one registry that it needs.
func (k *Kubernetes) clientConfig(registry string) (map[string]string, error) {
	config := struct {
		PlainHTTP []string          `json:"plainHTTP,omitempty"`
		CA        map[string]string `json:"ca,omitempty"`
	}{}
	if k.PlainHTTP {
		config.PlainHTTP = []string{registry}
	}
	data := map[string]string{}
	if k.CA != nil {
		config.CA = map[string]string{registry: path.Join(configMount, caKey)}
		data[caKey] = string(k.CA)
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	data[configKey] = string(text)
	return data, nil
}

func (k *Kubernetes) podSpec(s *Source, o Options, source manifest.Reference, name string) corev1.PodSpec {
	spec := corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		AutomountServiceAccountToken:  new(false),
		EnableServiceLinks:            new(false),
		TerminationGracePeriodSeconds: new(int64(stopGrace)),
		NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux"},
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot:   new(true),
			RunAsUser:      new(int64(nobody)),
			RunAsGroup:     new(int64(nobody)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		InitContainers: []corev1.Container{k.pull(source), k.compile(s, o)},
		Containers:     []corev1.Container{k.push(s, o, source)},
		Volumes: []corev1.Volume{
			scratch("source", manifest.MaxSourceSize+(16<<20)),
			scratch("out", 128<<20),
			scratch("tmp", 512<<20),
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: name}}}},
		},
	}
	if k.Architectures != nil {
		spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: k.Architectures},
				},
			}}},
		}}
	}
	if k.DockerConfig != nil {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "docker", VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: name, Items: []corev1.KeyToPath{
				{Key: corev1.DockerConfigJsonKey, Path: "config.json"}}}}})
		for _, image := range []string{k.Image, k.EccImage} {
			// Who may push to a registry may pull the images from it.
			if strings.HasPrefix(image, o.Ref.Registry+"/") {
				spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: name}}
			}
		}
	}
	return spec
}

func (k *Kubernetes) pull(source manifest.Reference) corev1.Container {
	return k.client(pullContainer,
		[]string{"ebpm", "pull", "--source", source.Pinned().String(), "-o", sourceMount},
		corev1.VolumeMount{Name: "source", MountPath: sourceMount})
}

func (k *Kubernetes) push(s *Source, o Options, source manifest.Reference) corev1.Container {
	command := []string{"ebpm", "push", "--built", outMount}
	for _, p := range o.Platforms {
		command = append(command, "--platform", p.String())
	}
	c := k.client(pushContainer,
		append(command,
			"--source-from", source.Pinned().String(),
			"--source-file", s.File,
			"--digest-file", corev1.TerminationMessagePathDefault,
			o.Ref.String()),
		corev1.VolumeMount{Name: "out", MountPath: outMount, ReadOnly: true})
	c.Env = append(c.Env, sourceDate(o))
	return c
}

func sourceDate(o Options) corev1.EnvVar {
	var seconds int64
	if !o.Created.IsZero() {
		seconds = o.Created.Unix()
	}
	return corev1.EnvVar{Name: "SOURCE_DATE_EPOCH", Value: strconv.FormatInt(seconds, 10)}
}

// client is a container that talks to the registry.
func (k *Kubernetes) client(name string, command []string, mounts ...corev1.VolumeMount) corev1.Container {
	c := container(name, k.Image, command, "512Mi")
	c.Env = []corev1.EnvVar{{Name: "EBPM_CONFIG", Value: path.Join(configMount, configKey)}}
	c.VolumeMounts = append(mounts, corev1.VolumeMount{Name: "config", MountPath: configMount, ReadOnly: true})
	if k.DockerConfig != nil {
		c.Env = append(c.Env, corev1.EnvVar{Name: "DOCKER_CONFIG", Value: dockerMount})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "docker", MountPath: dockerMount, ReadOnly: true})
	}
	return c
}

// compile is the container that reads a stranger's text: it gets the source and
// nothing else. Its command line is that of eunomia-bpf's ecc, whose image can
// take the place of ours, unless platforms were asked for: that ecc compiles for
// the architecture of its node only, and refuses the flag --target-arch.
func (k *Kubernetes) compile(s *Source, o Options) corev1.Container {
	command := []string{"ecc", path.Join(sourceMount, s.File)}
	if s.Header != "" {
		command = append(command, path.Join(sourceMount, s.Header))
	}
	command = append(command, "-o", outMount)
	for _, p := range o.Platforms {
		command = append(command, "--target-arch", p.Architecture)
	}
	c := container(compileContainer, k.EccImage, command, "1Gi")
	c.Env = []corev1.EnvVar{
		{Name: ecc.FactsVariable, Value: path.Join(outMount, factsFile)},
		// The root file system is read-only; eunomia-bpf's ecc ends at once
		// where it finds no home.
		{Name: "EUNOMIA_HOME", Value: "/tmp/eunomia"},
		{Name: "HOME", Value: "/tmp"},
		{Name: "TMPDIR", Value: "/tmp"},
		// What the compiler says is the user's; what ecc does is not.
		{Name: "RUST_LOG", Value: "warn"},
		sourceDate(o),
	}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "source", MountPath: sourceMount, ReadOnly: true},
		{Name: "out", MountPath: outMount},
		{Name: "tmp", MountPath: "/tmp"},
	}
	return c
}

func container(name, image string, command []string, memory string) corev1.Container {
	words := make([]string, len(command))
	for i, word := range command {
		// Kubernetes would take $(NAME) of a file's name for a variable.
		words[i] = strings.ReplaceAll(word, "$", "$$")
	}
	return corev1.Container{
		Name:    name,
		Image:   image,
		Command: words,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("100m"),
				corev1.ResourceMemory: resource.MustParse("128Mi"),
			},
			Limits: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("2"),
				corev1.ResourceMemory: resource.MustParse(memory),
			},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		// A step that fails says why in its last lines.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// scratch is a folder of the Pod; size is in bytes.
func scratch(name string, size int64) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(size, resource.BinarySI)}}}
}

var (
	notDNS   = regexp.MustCompile(`[^a-z0-9]+`)
	notLabel = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
)

// jobName leaves room for what Kubernetes appends to the names of Pods.
func jobName(name, id string) string {
	name = notDNS.ReplaceAllString(strings.ToLower(name), "-")
	if len(name) > 40 {
		name = name[:40]
	}
	if name = strings.Trim(name, "-"); name != "" {
		name += "-"
	}
	return "build-" + name + id
}

func labelValue(name string) string {
	name = notLabel.ReplaceAllString(name, "-")
	if len(name) > 63 {
		name = name[:63]
	}
	return strings.Trim(name, "-_.")
}
