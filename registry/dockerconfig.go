// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// DockerConfig returns a Docker config.json that holds the credentials of one
// registry (HOST:PORT) and nothing else, for a Secret of those who act for the
// user; nil when the user has none for it.
func (c *Client) DockerConfig(ctx context.Context, registry string) ([]byte, error) {
	credential, err := c.credential(ctx, credentials.ServerAddressFromHostname(registry))
	if err != nil {
		return nil, fmt.Errorf("read the credentials of %s: %w", registry, err)
	}
	if credential == auth.EmptyCredential {
		return nil, nil
	}
	type entry struct {
		Auth          string `json:"auth,omitempty"`
		IdentityToken string `json:"identitytoken,omitempty"`
		RegistryToken string `json:"registrytoken,omitempty"`
	}
	e := entry{IdentityToken: credential.RefreshToken, RegistryToken: credential.AccessToken}
	if credential.Username != "" || credential.Password != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(credential.Username + ":" + credential.Password))
	}
	return json.Marshal(map[string]map[string]entry{"auths": {credentials.ServerAddressFromHostname(registry): e}})
}
