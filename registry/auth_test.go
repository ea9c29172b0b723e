// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/ebpm/ebpm/manifest"
)

// The password is "secret", hashed by bcrypt with the least cost.
const htpasswd = "alice:$2a$04$OpNFOfJFnQRF0VFrmi11b.UI9iXwkDQFl5Z5c8fsbnINrjrfpowDO\n"

func writeFileT(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// dockerConfig makes a Docker config with one account, and uses it.
func dockerConfig(t *testing.T, content string) {
	t.Helper()
	dir := t.TempDir()
	writeFileT(t, filepath.Join(dir, "config.json"), content, 0o600)
	t.Setenv("DOCKER_CONFIG", dir)
}

// account is one of alice's.
func account(host, password string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("alice:"+password)))
}

func newPrivateRegistry(t *testing.T) http.Handler {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	writeFileT(t, file, htpasswd, 0o600)
	return newDistribution(t, func(c *configuration.Configuration) {
		c.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "test", "path": file}}
	})
}

func TestCredentials(t *testing.T) {
	host := serve(t, newPrivateRegistry(t))
	ref := parse(t, host+"/team/opensnoop:1.0.0")
	a := testArtifact(t, "1.0.0")

	t.Run("none", func(t *testing.T) {
		c, said := newClient(t, Options{})
		_, err := c.Push(t.Context(), a, ref)
		wantKind(t, err, manifest.KindFailure, ref.String(), "registry "+host+" wants a login", "docker login "+host, "DOCKER_CONFIG")
		if len(said.slept) > 0 {
			t.Error("it was tried again")
		}
	})
	t.Run("wrong", func(t *testing.T) {
		dockerConfig(t, account(host, "guess"))
		c, _ := newClient(t, Options{})
		_, err := c.Fetch(t.Context(), ref, amd64)
		wantKind(t, err, manifest.KindFailure, "registry "+host+" denies access", "docker login "+host)
	})
	t.Run("of another registry", func(t *testing.T) {
		dockerConfig(t, account("registry.example", "secret"))
		c, _ := newClient(t, Options{})
		_, err := c.Fetch(t.Context(), ref, amd64)
		wantKind(t, err, manifest.KindFailure, "wants a login")
	})
	t.Run("right", func(t *testing.T) {
		dockerConfig(t, account(host, "secret"))
		c, _ := newClient(t, Options{})
		if _, err := c.Push(t.Context(), a, ref); err != nil {
			t.Fatal(err)
		}
		p, err := c.Fetch(t.Context(), ref, amd64)
		wantChild(t, p, err, testChild(amd64, "1.0.0"))
		if _, err := c.Tags(t.Context(), ref); err != nil {
			t.Error(err)
		}
	})
	t.Run("by a helper", func(t *testing.T) {
		bin := t.TempDir()
		writeFileT(t, filepath.Join(bin, "docker-credential-test"),
			"#!/bin/sh\necho '{\"ServerURL\":\"x\",\"Username\":\"alice\",\"Secret\":\"secret\"}'\n", 0o755)
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		dockerConfig(t, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host))
		c, _ := newClient(t, Options{})
		p, err := c.Fetch(t.Context(), ref, amd64)
		wantChild(t, p, err, testChild(amd64, "1.0.0"))
	})
	t.Run("by a helper that is missing", func(t *testing.T) {
		dockerConfig(t, `{"credsStore":"no-such-helper"}`)
		c, _ := newClient(t, Options{})
		_, err := c.Fetch(t.Context(), ref, amd64)
		wantKind(t, err, manifest.KindFailure, "read credentials for "+host, "docker-credential-no-such-helper", "credential helper")
	})
	t.Run("in a config that is no JSON", func(t *testing.T) {
		dockerConfig(t, `{`)
		_, err := New(Options{})
		wantKind(t, err, manifest.KindUsage, "Docker config", "DOCKER_CONFIG")
	})
}

// TestCredentialsStayAtHome has a registry send a reader to another host, as
// those with a content network do: the credentials must not go there.
func TestCredentialsStayAtHome(t *testing.T) {
	a := testArtifact(t, "1.0.0", amd64)
	var mu sync.Mutex
	seen := map[string]int{}
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.Header.Get("Authorization")]++
		mu.Unlock()
		serveOnly(a).ServeHTTP(w, r)
	}))
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "alice" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "http://"+elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	dockerConfig(t, account(host, "secret"))
	c, _ := newClient(t, Options{})
	p, err := c.Fetch(t.Context(), parse(t, host+"/x:1"), amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	if len(seen) != 1 || seen[""] == 0 {
		t.Errorf("the other host saw Authorization %v", seen)
	}
}
