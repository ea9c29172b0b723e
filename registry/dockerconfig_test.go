// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDockerConfigOfOneRegistry(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	const config = `{"auths":{"reg.example:5000":{"auth":"dTpw"},"other.example":{"auth":"eDp5"},"token.example":{"identitytoken":"t"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for registry, want := range map[string]any{
		"reg.example:5000": map[string]any{"auths": map[string]any{"reg.example:5000": map[string]any{"auth": "dTpw"}}},
		"token.example":    map[string]any{"auths": map[string]any{"token.example": map[string]any{"identitytoken": "t"}}},
		"none.example":     nil,
	} {
		data, err := c.DockerConfig(t.Context(), registry)
		if err != nil {
			t.Fatalf("%s: %v", registry, err)
		}
		var got any
		if data != nil {
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", registry, diff)
		}
	}
}
