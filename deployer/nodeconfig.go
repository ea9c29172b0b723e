// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

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

// merge adds c to the data of the ConfigMap and says what it changed. It removes
// nothing, since other releases, and keys that this ebpm does not know, need
// theirs, but for one: a registry with a CA is reached by TLS.
func (c NodeConfig) merge(data map[string]string) (merged map[string]string, notes []string, err error) {
	if merged = maps.Clone(data); merged == nil {
		merged = map[string]string{}
	}
	config := map[string]any{}
	if err := yaml.Unmarshal([]byte(merged[nodeConfigKey]), &config); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", nodeConfigKey, err)
	}
	if config == nil {
		config = map[string]any{}
	}
	var plain []string
	switch known := config["plainHTTP"].(type) {
	case nil:
	case []any:
		for _, h := range known {
			plain = append(plain, fmt.Sprint(h))
		}
	default:
		return nil, nil, fmt.Errorf("%s: plainHTTP is not a list", nodeConfigKey)
	}
	for _, registry := range c.PlainHTTP {
		if _, ok := c.CAs[registry]; !ok && !slices.Contains(plain, registry) {
			plain = append(plain, registry)
			notes = append(notes, fmt.Sprintf("Nodes are told to reach registry %s by plain HTTP.", registry))
		}
	}
	files, ok := config["ca"].(map[string]any)
	if !ok {
		if config["ca"] != nil {
			return nil, nil, fmt.Errorf("%s: ca is not a map", nodeConfigKey)
		}
		files = map[string]any{}
	}
	for _, registry := range sortedKeys(c.CAs) {
		key := caKey(registry)
		file, pem := pathNodeConfig+"/"+key, string(c.CAs[registry])
		if files[registry] != file || merged[key] != pem {
			files[registry], merged[key] = file, pem
			notes = append(notes, fmt.Sprintf("Nodes are given the CA of registry %s.", registry))
		}
		if slices.Contains(plain, registry) {
			plain = slices.DeleteFunc(plain, func(r string) bool { return r == registry })
			notes = append(notes, fmt.Sprintf("Nodes no longer reach registry %s by plain HTTP: it has a CA now.", registry))
		}
	}
	if len(notes) == 0 {
		return merged, nil, nil
	}
	slices.Sort(plain)
	config["plainHTTP"], config["ca"] = plain, files
	if len(plain) == 0 {
		delete(config, "plainHTTP")
	}
	if len(files) == 0 {
		delete(config, "ca")
	}
	b, err := yaml.Marshal(config)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", nodeConfigKey, err)
	}
	merged[nodeConfigKey] = string(b)
	return merged, notes, nil
}

// caKey returns the key of the ConfigMap for the CA of a registry, whose name
// may have characters that a key may not.
func caKey(registry string) string {
	sum := sha256.Sum256([]byte(registry))
	return "ca-" + hex.EncodeToString(sum[:8]) + ".pem"
}

// mergeNodeConfig brings what add holds into the ConfigMap of the namespace, and
// notes in result what it wrote.
func (c *Client) mergeNodeConfig(ctx context.Context, add NodeConfig, result *Result) error {
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
		data, notes, err := add.merge(known.Data)
		if err != nil {
			return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("ConfigMap %s/%s: %w", c.namespace, NodeConfigMap, err), "Mend it with kubectl edit.")
		}
		if len(notes) == 0 {
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
		result.Notes = append(result.Notes, notes...)
		return nil
	}
}
