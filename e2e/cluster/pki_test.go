// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteKeys(t *testing.T) {
	c := testCluster(t)
	dir := filepath.Join(c.dir, "pki")
	if err := writeKeys(dir, c.Networks, c.NodeNames); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cert, ca, host string
		ok             bool
	}{
		{"apiserver", "ca", "10.77.0.1", true},
		{"apiserver", "ca", "10.96.0.1", true},
		{"apiserver", "ca", "kubernetes.default.svc", true},
		{"apiserver", "ca", "10.77.0.2", false},
		{"etcd", "etcd-ca", "10.77.0.1", true},
		{"etcd-client", "etcd-ca", "", true},
		{"node1-serving", "ca", "10.77.0.11", true},
		{"node1-serving", "ca", "10.77.0.12", false},
		{"node2-serving", "ca", "10.77.0.12", true},
		{"admin", "ca", "", true},
		{"front-proxy-client", "front-proxy-ca", "", true},
		// What opens the API server opens neither etcd nor impersonates a user.
		{"admin", "etcd-ca", "", false},
		{"node1", "etcd-ca", "", false},
		{"node1", "front-proxy-ca", "", false},
	} {
		roots := x509.NewCertPool()
		roots.AddCert(readCertificate(t, filepath.Join(dir, tc.ca+".crt")))
		_, err := readCertificate(t, filepath.Join(dir, tc.cert+".crt")).Verify(x509.VerifyOptions{
			Roots:     roots,
			DNSName:   tc.host,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		})
		if (err == nil) != tc.ok {
			t.Errorf("%s by %s for %q: got %v, want success %v", tc.cert, tc.ca, tc.host, err, tc.ok)
		}
	}

	for cert, want := range map[string][2]string{
		"node2": {"system:node:node2", "system:nodes"},
		"admin": {"kubernetes-admin", "system:masters"},
	} {
		subject := readCertificate(t, filepath.Join(dir, cert+".crt")).Subject
		if subject.CommonName != want[0] || len(subject.Organization) != 1 || subject.Organization[0] != want[1] {
			t.Errorf("subject of %s is %s, want %v", cert, subject, want)
		}
	}

	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(files) == 0 {
		t.Fatalf("keys: %v, %v", files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", file, info.Mode().Perm())
		}
	}

	// A second time nothing changes: running programs hold the old ones.
	before, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := writeKeys(dir, c.Networks, c.NodeNames); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("writing the keys twice replaced them")
	}
}

func readCertificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s is no PEM file", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
