// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Client acts on the releases in one namespace of a cluster.
type Client struct {
	kube      kubernetes.Interface
	namespace string
	version   string
	now       func() time.Time
	// openLog opens a container's log; tests replace it.
	openLog func(ctx context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error)
	// logTimeout bounds a read of a log that is not followed.
	logTimeout time.Duration
}

// ConnectOptions say which cluster. The zero value is what kubectl would take.
type ConnectOptions struct {
	// Kubeconfig is a file; "" is KUBECONFIG, else ~/.kube/config, else the
	// service account of the Pod that it runs in.
	Kubeconfig string
	// Context of the kubeconfig; "" is the current one.
	Context string
	// Namespace of the releases; "" is DefaultNamespace.
	Namespace string
	// Version is that of ebpm, which revisions record.
	Version string
}

// RESTConfig returns how to reach the cluster. The error is of
// [manifest.KindPrecondition].
func (o ConnectOptions) RESTConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context}).ClientConfig()
	if err != nil {
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("read kubeconfig: %w", err), "Point KUBECONFIG or --kubeconfig at the cluster.")
	}
	config.UserAgent = "ebpm/" + o.Version
	// client-go's default of 5 requests a second is made for controllers; one
	// command reads a log a Pod.
	config.QPS, config.Burst = 50, 100
	return config, nil
}

// Connect returns a Client of the cluster that o names. It does not reach it
// yet.
func Connect(o ConnectOptions) (*Client, error) {
	config, err := o.RESTConfig()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	return New(kube, o.Namespace, o.Version), nil
}

// New returns a Client on kube; a namespace "" is DefaultNamespace.
func New(kube kubernetes.Interface, namespace, version string) *Client {
	if namespace == "" {
		namespace = DefaultNamespace
	}
	c := &Client{kube: kube, namespace: namespace, version: version, now: time.Now, logTimeout: 10 * time.Second}
	c.openLog = func(ctx context.Context, pod string, o *corev1.PodLogOptions) (io.ReadCloser, error) {
		return kube.CoreV1().Pods(namespace).GetLogs(pod, o).Stream(ctx)
	}
	return c
}

// failed words an error of the API server: which right is missing, or what
// could not be done to what.
func (c *Client) failed(verb, resource, name string, err error) error {
	what := strings.TrimSpace(verb + " " + resource + " " + name)
	// Admission also answers "forbidden"; only the authorizer names the verb.
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot "+verb+" resource") {
		where := " in namespace " + c.namespace
		if slices.Contains([]string{"nodes", "namespaces"}, resource) {
			where = " in the cluster"
		}
		return manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("%s: the right to %s %s%s is missing: %w", what, verb, resource, where, err),
			"An admin gives the rights that ebpm needs with the manifests in deployer/rbac: operator.yaml to deploy, viewer.yaml to look.")
	}
	if apierrors.IsUnauthorized(err) {
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", what, err), "The cluster does not know these credentials; log in again.")
	}
	var unreachable *url.Error
	if errors.As(err, &unreachable) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("reach the cluster: %w", err), "Is it the right kube context, and is the cluster up?")
	}
	return fmt.Errorf("%s: %w", what, err)
}

// user returns who the cluster takes us for, or "" where it does not say.
func (c *Client) user(ctx context.Context) string {
	review, err := c.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		// Only the history would show it; a release is not worth less.
		return ""
	}
	return review.Status.UserInfo.Username
}

// nodes returns the nodes of the cluster, sorted by name.
func (c *Client) nodes(ctx context.Context) ([]Node, error) {
	list, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.failed("list", "nodes", "", err)
	}
	nodes := make([]Node, 0, len(list.Items))
	for i := range list.Items {
		nodes = append(nodes, nodeOf(&list.Items[i]))
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

// pods returns the Pods of a release.
func (c *Client) pods(ctx context.Context, name string) ([]corev1.Pod, error) {
	list, err := c.kube.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(name)})
	if err != nil {
		return nil, c.failed("list", "pods", "", err)
	}
	return list.Items, nil
}

func selectorOf(name string) string {
	return labelManagedBy + "=" + managedBy + "," + labelRelease + "=" + name
}

// ensureNamespace makes the namespace when it is missing. Its Pods need what
// the stricter levels of Pod security refuse: host paths and capabilities.
func (c *Client) ensureNamespace(ctx context.Context) error {
	const level = "pod-security.kubernetes.io/enforce"
	admin := fmt.Sprintf("An admin runs: kubectl create namespace %[1]s; kubectl label namespace %[1]s %[2]s=privileged", c.namespace, level)
	api := c.kube.CoreV1().Namespaces()
	known, err := api.Get(ctx, c.namespace, metav1.GetOptions{})
	switch {
	case err == nil:
		if enforced := known.Labels[level]; enforced == "baseline" || enforced == "restricted" {
			return manifest.WithKind(manifest.KindPrecondition,
				fmt.Errorf("namespace %s: Pod security %s refuses the Pods of a release, which need capabilities and host paths", c.namespace, enforced),
				fmt.Sprintf("An admin runs: kubectl label --overwrite namespace %s %s=privileged", c.namespace, level))
		}
		return nil
	case apierrors.IsForbidden(err):
		// Whoever may not look may still be allowed to work in it.
		return nil
	case !apierrors.IsNotFound(err):
		return c.failed("get", "namespaces", c.namespace, err)
	}
	_, err = api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: c.namespace, Labels: map[string]string{level: "privileged", labelManagedBy: managedBy},
	}}, metav1.CreateOptions{FieldManager: managedBy})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if apierrors.IsForbidden(err) {
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("namespace %s: it does not exist, and the right to create namespaces is missing: %w", c.namespace, err), admin)
	}
	if err != nil {
		return c.failed("create", "namespaces", c.namespace, err)
	}
	return nil
}
