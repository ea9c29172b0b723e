// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/ebpm/ebpm/manifest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// NodeConfig is what nodes must know of registries: an init container sees
// neither the settings of the node's container runtime nor those of the user.
type NodeConfig struct {
	// PlainHTTP are registries, as HOST[:PORT], that are reached without TLS.
	PlainHTTP []string
	// CAs are the certificates, in PEM, of private authorities by registry.
	CAs map[string][]byte
}

func (c NodeConfig) forRegistry(registry string) NodeConfig {
	var out NodeConfig
	if slices.Contains(c.PlainHTTP, registry) {
		out.PlainHTTP = []string{registry}
	}
	if pem, ok := c.CAs[registry]; ok {
		out.CAs = map[string][]byte{registry: pem}
	}
	return out
}

func (c NodeConfig) empty() bool { return len(c.PlainHTTP) == 0 && len(c.CAs) == 0 }

const nodeConfigKey = "config.yaml"

// merge adds c to the data of the ConfigMap and removes nothing: other
// releases, and keys that this ebpm does not know, need theirs.
func (c NodeConfig) merge(data map[string]string) (map[string]string, error) {
	merged := maps.Clone(data)
	if merged == nil {
		merged = map[string]string{}
	}
	config := map[string]any{}
	if err := yaml.Unmarshal([]byte(merged[nodeConfigKey]), &config); err != nil {
		return nil, fmt.Errorf("%s: %w", nodeConfigKey, err)
	}
	if config == nil {
		config = map[string]any{}
	}
	if len(c.PlainHTTP) > 0 {
		var hosts []string
		switch known := config["plainHTTP"].(type) {
		case nil:
		case []any:
			for _, h := range known {
				hosts = append(hosts, fmt.Sprint(h))
			}
		default:
			return nil, fmt.Errorf("%s: plainHTTP is not a list", nodeConfigKey)
		}
		hosts = append(hosts, c.PlainHTTP...)
		slices.Sort(hosts)
		config["plainHTTP"] = slices.Compact(hosts)
	}
	for registry, pem := range c.CAs {
		files, ok := config["ca"].(map[string]any)
		if !ok {
			if config["ca"] != nil {
				return nil, fmt.Errorf("%s: ca is not a map", nodeConfigKey)
			}
			files = map[string]any{}
		}
		// A key of a ConfigMap has no colon.
		key := "ca-" + strings.ReplaceAll(registry, ":", "-") + ".pem"
		files[registry] = pathNodeConfig + "/" + key
		config["ca"], merged[key] = files, string(pem)
	}
	b, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nodeConfigKey, err)
	}
	merged[nodeConfigKey] = string(b)
	return merged, nil
}

// mergeNodeConfig brings what c holds into the ConfigMap of the namespace.
func (c *Client) mergeNodeConfig(ctx context.Context, add NodeConfig) error {
	if add.empty() {
		return nil
	}
	api := c.kube.CoreV1().ConfigMaps(c.namespace)
	for {
		known, err := api.Get(ctx, NodeConfigMap, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if err != nil && !missing {
			return c.failed("get", "configmaps", NodeConfigMap, err)
		}
		if missing {
			known = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Name: NodeConfigMap, Namespace: c.namespace, Labels: map[string]string{labelManagedBy: managedBy},
			}}
		}
		data, err := add.merge(known.Data)
		if err != nil {
			return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("ConfigMap %s/%s: %w", c.namespace, NodeConfigMap, err), "Mend it with kubectl edit.")
		}
		if reflect.DeepEqual(data, known.Data) {
			return nil
		}
		known.Data = data
		verb := "update"
		if missing {
			verb = "create"
			_, err = api.Create(ctx, known, metav1.CreateOptions{FieldManager: managedBy})
		} else {
			_, err = api.Update(ctx, known, metav1.UpdateOptions{FieldManager: managedBy})
		}
		// Somebody else wrote in between; theirs must stay too.
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return c.failed(verb, "configmaps", NodeConfigMap, err)
		}
		return nil
	}
}
