// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the registry's login
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the registry's disk
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// privateRegistry serves a registry with TLS by a CA of its own and a password,
// on the cluster's bridge. It returns HOST:PORT and the CA's PEM file.
func privateRegistry(t *testing.T, user, password string) (address, caFile string) {
	t.Helper()
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	htpasswd := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(htpasswd, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host := theCluster.Networks.Host()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "e2e registry"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{host.AsSlice()},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	config := &configuration.Configuration{
		Storage: configuration.Storage{"filesystem": configuration.Parameters{"rootdirectory": filepath.Join(dir, "data")}, "delete": configuration.Parameters{"enabled": true}},
		Auth:    configuration.Auth{"htpasswd": configuration.Parameters{"realm": "e2e", "path": htpasswd}},
	}
	// The library writes a line a request.
	logrus.SetOutput(io.Discard)
	listener, err := tls.Listen("tcp", net.JoinHostPort(host.String(), "0"), &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handlers.NewApp(t.Context(), config), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String(), caFile
}

// A registry with a password and a CA of its own: the Job builds into it, the
// nodes pull from it, and an upgrade keeps the secret.
func TestPrivateRegistry(t *testing.T) {
	const user, password = "olga", "correct horse"
	cleanup(t, "private")
	address, caFile := privateRegistry(t, user, password)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "ca: {%q: %q}\n", address, caFile), 0o600); err != nil {
		t.Fatal(err)
	}
	docker := filepath.Join(dir, "config.json")
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(docker, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q},"other.example":{"auth":"c2VjcmV0OnNlY3JldA=="}}}`, address, login), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []option{withEnv("EBPM_CONFIG="+config, "DOCKER_CONFIG="+dir)}
	run := func(args ...string) {
		t.Helper()
		if c := ebpm(t, env, args...); c.code != 0 {
			t.Fatal(c)
		}
	}
	ref := address + "/team/private"
	run("build", "examples/opensnoop", "-t", ref+":1.0.0", "--builder", "kubernetes")
	changed := copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "256 * 1024", "512 * 1024"})
	run("build", changed, "-t", ref+":1.1.0", "--builder", "kubernetes")

	// Somebody without the password, and somebody who does not know the CA.
	fails(t, []option{withEnv("EBPM_CONFIG="+config, "DOCKER_CONFIG="+t.TempDir())}, 1, []string{"docker login"}, "pull", ref+":1.0.0", "-o", t.TempDir())
	fails(t, []option{withEnv("DOCKER_CONFIG=" + dir)}, 1, []string{"certificate", "ca"}, "pull", ref+":1.0.0", "-o", t.TempDir())

	kubectl(t, "apply", "-f", filepath.Join(root, "deployer", "rbac", "operator.yaml")) // the namespace
	kubectl(t, "-n", "ebpm", "create", "secret", "generic", "e2e-private", "--type=kubernetes.io/dockerconfigjson", "--from-file=.dockerconfigjson="+docker)
	defer kubectl(t, "-n", "ebpm", "delete", "secret", "e2e-private")
	run("deploy", ref+":1.0.0", "--node", "node1", "--pull-secret", "e2e-private")
	run("deploy", ref+":1.1.0")
	seenFrom(t, "private", "node1")
	if plan := kubectl(t, "-n", "ebpm", "get", "daemonset", "private", "-o", "yaml"); !strings.Contains(plan, "e2e-private") || strings.Contains(plan, login) {
		t.Errorf("the secret is lost, or its content is in the plan:\n%s", plan)
	}
}
