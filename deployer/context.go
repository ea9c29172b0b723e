// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// ContextName returns the name of the kubeconfig's context that o chooses, or
// "" where no cluster is configured.
func (o ConnectOptions) ContextName() string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	config, err := rules.Load()
	if err != nil {
		return ""
	}
	name := o.Context
	if name == "" {
		name = config.CurrentContext
	}
	if config.Contexts[name] == nil {
		return ""
	}
	return name
}

// Kubernetes returns the connection itself, for a builder on the same cluster.
func (c *Client) Kubernetes() kubernetes.Interface { return c.kube }
