// SPDX-License-Identifier: Apache-2.0

//go:build !node

package builder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
	"github.com/opencontainers/go-digest"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	defaultTimeout      = 10 * time.Minute
	defaultStartTimeout = time.Minute
	// CleanupTimeout bounds what a build that failed or was interrupted does
	// before it returns.
	CleanupTimeout = 20 * time.Second
	// endSlack is how much later than the Job's deadline the wait for it ends.
	endSlack = 30 * time.Second
	// abandonedAfter is the age at which a Job that was never let go belongs to
	// a command that died: letting go takes a second.
	abandonedAfter = 10 * time.Minute
)

// Registry is where sources wait and packages arrive; *registry.Client is one.
type Registry interface {
	PushSource(ctx context.Context, to manifest.Reference, tar []byte, build string) (manifest.Reference, error)
	Resolve(ctx context.Context, ref manifest.Reference) (manifest.Reference, error)
	Delete(ctx context.Context, ref manifest.Reference) error
}

var _ Registry = (*registry.Client)(nil)

// Kubernetes builds in Jobs of a cluster.
type Kubernetes struct {
	Client kubernetes.Interface
	// Namespace is made where it is missing; empty is [DefaultNamespace].
	Namespace string
	// Image has ebpm in its PATH, EccImage has ecc: ours, or another with the
	// command line of eunomia-bpf's ecc.
	Image, EccImage string
	// Architectures (GOARCH) are those of the nodes that have both images; nil is
	// any.
	Architectures []string
	Registry      Registry
	// PlainHTTP says that the target's registry is reached without TLS, CA is
	// the PEM of its private CA, and DockerConfig a Docker configuration with
	// the credentials of that registry and no other; nil is anonymous.
	PlainHTTP    bool
	CA           []byte
	DockerConfig []byte
	// Timeout bounds the Job; 0 is ten minutes.
	Timeout time.Duration
	// StartTimeout is how long a Pod may be unable to start, for instance
	// because its image cannot be pulled; 0 is one minute.
	StartTimeout time.Duration

	poll time.Duration // between two looks at the Job; 0 is 300 ms
}

func (k *Kubernetes) namespace() string {
	if k.Namespace == "" {
		return DefaultNamespace
	}
	return k.Namespace
}

func (k *Kubernetes) timeout() time.Duration {
	if k.Timeout <= 0 {
		return defaultTimeout
	}
	return k.Timeout
}

func (k *Kubernetes) startTimeout() time.Duration {
	if k.StartTimeout <= 0 {
		return defaultStartTimeout
	}
	return k.StartTimeout
}

func (k *Kubernetes) pollInterval() time.Duration {
	if k.poll <= 0 {
		return 300 * time.Millisecond
	}
	return k.poll
}

// Build builds s in a Job and returns the target with the digest of the package,
// which is complete in the registry. The caller verifies it as any other.
//
// Whatever happens, the Job is taken away again; when ctx ends that takes at most
// [CleanupTimeout], and the error is that of ctx. What could not be taken away is
// named in the error. A tag that another build moved meanwhile is of
// [manifest.KindConflict].
func (k *Kubernetes) Build(ctx context.Context, s *Source, o Options) (manifest.Reference, error) {
	var none manifest.Reference
	if err := o.check(s); err != nil {
		return none, err
	}
	if err := k.check(o.Ref); err != nil {
		return none, err
	}
	o.tell(Event{Step: StepSource})
	tar, err := PackSource(s, o.Created)
	if err != nil {
		return none, err
	}
	repository := o.Ref
	repository.Tag = ""
	source, err := k.Registry.PushSource(ctx, repository, tar, rand.Text())
	if err != nil {
		return none, fmt.Errorf("build %s: push source: %w", s.Spec.Name, err)
	}
	b := build{Kubernetes: k, source: s, o: o, ref: source}
	if before, err := k.Registry.Resolve(ctx, o.Ref); err == nil {
		b.before = before.Digest
	}
	o.tell(Event{Step: StepSource, Done: true})

	pushed, err := b.run(ctx)
	o.tell(Event{Step: StepCleanup})
	left := b.cleanup(ctx, err != nil)
	if err != nil {
		return none, fmt.Errorf("build %s in the cluster: %w", s.Spec.Name, errors.Join(err, left))
	}
	if left != nil {
		o.tell(Event{Step: StepCleanup, Detail: left.Error()})
	} else {
		o.tell(Event{Step: StepCleanup, Done: true})
	}
	return k.resolve(ctx, o.Ref, pushed)
}

// check refuses what a Job cannot do.
func (k *Kubernetes) check(ref manifest.Reference) error {
	if ref.Scheme != manifest.SchemeRegistry {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("build in a cluster: %s is not in a registry", ref),
			"The nodes of a cluster push to a registry; use --builder local for a layout.")
	}
	if ref.IsLoopback() {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("build in a cluster: %s is this machine, which a Pod does not reach by that name", ref.Registry),
			"Name the registry as the nodes of the cluster do, or use --builder local.")
	}
	for _, image := range []struct{ name, variable, image string }{
		{"--image", "EBPM_IMAGE", k.Image}, {"--builder-image", "EBPM_BUILDER_IMAGE", k.EccImage},
	} {
		if image.image == "" {
			return manifest.WithKind(manifest.KindUsage, fmt.Errorf("build in a cluster: no image for %s", image.name),
				"Set "+image.name+" or "+image.variable+".")
		}
	}
	return nil
}

// resolve holds what the registry says against what the Job said.
func (k *Kubernetes) resolve(ctx context.Context, target manifest.Reference, pushed digest.Digest) (manifest.Reference, error) {
	resolved, err := k.Registry.Resolve(ctx, target)
	if err != nil {
		return manifest.Reference{}, fmt.Errorf("resolve %s after its build: %w", target, err)
	}
	if pushed != "" && resolved.Digest != pushed {
		return manifest.Reference{}, manifest.WithKind(manifest.KindConflict,
			fmt.Errorf("%s was built as %s, but somebody moved the tag to %s meanwhile", target, pushed, resolved.Digest),
			"The package of this build is "+target.WithDigest(pushed).Pinned().String()+".")
	}
	return resolved, nil
}

// build is one build in a cluster.
type build struct {
	*Kubernetes
	source *Source
	o      Options
	ref    manifest.Reference // the pushed source
	job    *batchv1.Job       // as created; nil before
	pod    string             // its Pod; empty while there is none
	// before is what the tag named before, and pushStarted true once it may have
	// moved.
	before      digest.Digest
	pushStarted bool
}

// newID tells Jobs of one package apart.
func newID() string { return strings.ToLower(rand.Text()[:5]) }

func (b *build) run(ctx context.Context) (digest.Digest, error) {
	if err := b.start(ctx); err != nil {
		return "", err
	}
	limit := b.timeout() + endSlack
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("job %s/%s has not ended after %s, although its own deadline has passed: is the cluster's job controller running?", b.job.Namespace, b.job.Name, limit))
	defer cancel()
	return b.follow(ctx)
}

// start creates the Job suspended, gives it what it owns, and lets it go.
func (b *build) start(ctx context.Context) error {
	objects, err := b.Plan(b.source, b.o, b.ref, newID())
	if err != nil {
		return err
	}
	job, err := b.createJob(ctx, objects.Job)
	if err != nil {
		return err
	}
	b.job = job
	owner := []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID, Controller: new(true)}}
	objects.ConfigMap.OwnerReferences = owner
	if _, err := b.Client.CoreV1().ConfigMaps(job.Namespace).Create(ctx, objects.ConfigMap, metav1.CreateOptions{}); err != nil {
		return apiError(err, "create", "configmaps", job.Namespace)
	}
	if objects.Secret != nil {
		objects.Secret.OwnerReferences = owner
		if _, err := b.Client.CoreV1().Secrets(job.Namespace).Create(ctx, objects.Secret, metav1.CreateOptions{}); err != nil {
			return apiError(err, "create", "secrets", job.Namespace)
		}
	}
	_, err = b.Client.BatchV1().Jobs(job.Namespace).Patch(ctx, job.Name, types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{})
	if err != nil {
		return apiError(err, "patch", "jobs.batch", job.Namespace)
	}
	b.sweep(ctx)
	return nil
}

// createJob creates the Job, and the namespace where that is what is missing.
func (b *build) createJob(ctx context.Context, plan *batchv1.Job) (*batchv1.Job, error) {
	jobs := b.Client.BatchV1().Jobs(plan.Namespace)
	job, err := jobs.Create(ctx, plan, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) {
		namespace := corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: plan.Namespace, Labels: map[string]string{
			managedByLabel:                       managedByEbpm,
			"pod-security.kubernetes.io/enforce": "restricted",
		}}}
		_, err = b.Client.CoreV1().Namespaces().Create(ctx, &namespace, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("namespace %s does not exist: %w", plan.Namespace, apiError(err, "create", "namespaces", ""))
		}
		job, err = jobs.Create(ctx, plan, metav1.CreateOptions{})
	}
	if err != nil {
		if status := apierrors.APIStatus(nil); !errors.As(err, &status) {
			// Without an answer the Job may be there; its name is known.
			b.job = plan
		}
		return nil, apiError(err, "create", "jobs.batch", plan.Namespace)
	}
	return job, nil
}

// sweep takes away Jobs that were never let go: a command that is killed between
// the two leaves one that no deadline and no TTL ends. Ages are compared by the
// server's clock. It is a courtesy, so a failure of it is told and no more.
func (b *build) sweep(ctx context.Context) {
	jobs, err := b.jobs(ctx)
	if err != nil {
		b.o.tell(Event{Step: StepCleanup, Detail: fmt.Sprintf("look for abandoned builds: %v", err)})
		return
	}
	for _, job := range jobs {
		age := b.job.CreationTimestamp.Sub(job.CreationTimestamp.Time)
		if job.Spec.Suspend == nil || !*job.Spec.Suspend || age < abandonedAfter {
			continue
		}
		err := b.Client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
			PropagationPolicy: new(metav1.DeletePropagationBackground),
			Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			b.o.tell(Event{Step: StepCleanup, Detail: fmt.Sprintf("remove the abandoned build %s: %v", job.Name, err)})
		}
	}
}

// cleanup takes the Job away, and the source that waited for it where the
// registry allows that. It returns what is left. It also runs when ctx is over.
func (b *build) cleanup(ctx context.Context, failed bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CleanupTimeout)
	defer cancel()
	var left []error
	if b.job != nil {
		if err := b.deleteJob(ctx, failed); err != nil {
			left = append(left, manifest.WithKind(manifest.KindFailure,
				fmt.Errorf("job %s is still in namespace %s: %w", b.job.Name, b.job.Namespace, err),
				fmt.Sprintf("Remove it: kubectl -n %s delete job %s", b.job.Namespace, b.job.Name)))
		}
	}
	if failed && b.pushStarted {
		// The push may have been faster than the interrupt.
		if now, err := b.Registry.Resolve(ctx, b.o.Ref); err == nil && now.Digest != b.before {
			left = append(left, fmt.Errorf("the package was pushed before the build ended: %s is there, and complete", now))
		}
	}
	if err := b.deleteSource(ctx); err != nil {
		left = append(left, fmt.Errorf("the source %s is left to the registry's garbage collection: %w", b.ref, err))
	}
	return errors.Join(left...)
}

// deleteSource deletes the source that waited. No other build waits for this
// manifest: each has one of its own.
func (b *build) deleteSource(ctx context.Context) error {
	err := b.Registry.Delete(ctx, b.ref)
	if errors.Is(err, registry.ErrUnsupported) || manifest.KindOf(err) == manifest.KindNotFound {
		return nil
	}
	return err
}

// jobs returns the builds in the namespace.
func (b *build) jobs(ctx context.Context) ([]batchv1.Job, error) {
	list, err := b.Client.BatchV1().Jobs(b.job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: managedByLabel + "=" + managedByEbpm + "," + buildLabel})
	if err != nil {
		return nil, apiError(err, "list", "jobs.batch", b.job.Namespace)
	}
	return list.Items, nil
}

// deleteJob deletes the Job and, in the background, what it owns, and waits until
// it is gone; where its Pods may still run, and push, until they are gone too.
func (b *build) deleteJob(ctx context.Context, running bool) error {
	jobs := b.Client.BatchV1().Jobs(b.job.Namespace)
	options := metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
	if b.job.UID != "" {
		options.Preconditions = &metav1.Preconditions{UID: &b.job.UID}
	}
	if err := jobs.Delete(ctx, b.job.Name, options); err != nil && !apierrors.IsNotFound(err) {
		return apiError(err, "delete", "jobs.batch", b.job.Namespace)
	}
	for {
		_, err := jobs.Get(ctx, b.job.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			if !running {
				return nil
			}
			pods, err := b.pods(ctx)
			if err != nil || len(pods) == 0 {
				return err
			}
		} else if err != nil {
			return apiError(err, "get", "jobs.batch", b.job.Namespace)
		}
		if err := sleep(ctx, b.pollInterval()); err != nil {
			return fmt.Errorf("wait for its end: %w", err)
		}
	}
}

func (b *build) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := b.Client.CoreV1().Pods(b.job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + b.job.Name})
	if err != nil {
		return nil, apiError(err, "list", "pods", b.job.Namespace)
	}
	return list.Items, nil
}

// apiError says which right is missing where one is.
func apiError(err error, verb, what, namespace string) error {
	where := ""
	if namespace != "" {
		where = " in namespace " + namespace
	}
	err = fmt.Errorf("%s %s%s: %w", verb, what, where, err)
	if apierrors.IsForbidden(err) {
		check := fmt.Sprintf("kubectl auth can-i %s %s", verb, what)
		if namespace != "" {
			check += " -n " + namespace
		}
		return manifest.WithKind(manifest.KindPrecondition, err,
			fmt.Sprintf("You lack the right to %s %s%s (%s); builder/rbac has the rights that a build needs.", verb, what, where, check))
	}
	return err
}

// sleep waits, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
