// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// certificateLife is longer than any test cluster lives: a reboot ends it.
const certificateLife = 365 * 24 * time.Hour

// authority is a certificate authority of the cluster. The API server's
// clients, etcd's and those of extension API servers have different ones, so
// that no certificate of a node opens etcd.
type authority struct {
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identity is what a certificate says of its owner.
type identity struct {
	name         string
	organization string // the group, for a client of the API server
	dnsNames     []string
	addresses    []netip.Addr
}

// writeKeys makes all certificates and keys of the cluster in dir. It writes
// into a folder of its own first, so that dir has all of them or none.
func writeKeys(dir string, networks Networks, nodes []string) error {
	if isDir(dir) {
		return nil
	}
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	cluster, err := newAuthority(tmp, "ca", "ebpm-cluster")
	if err != nil {
		return err
	}
	etcd, err := newAuthority(tmp, "etcd-ca", "ebpm-cluster-etcd")
	if err != nil {
		return err
	}
	proxy, err := newAuthority(tmp, "front-proxy-ca", "ebpm-cluster-front-proxy")
	if err != nil {
		return err
	}
	host := networks.Host()
	const masters = "system:masters"
	type leaf struct {
		ca   *authority
		file string
		id   identity
	}
	leaves := []leaf{
		{etcd, "etcd", identity{name: "etcd", addresses: []netip.Addr{host}}},
		{etcd, "etcd-client", identity{name: "kube-apiserver"}},
		{proxy, "front-proxy-client", identity{name: "front-proxy-client"}},
		{cluster, "apiserver", identity{
			name:      "kube-apiserver",
			dnsNames:  []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			addresses: []netip.Addr{host, networks.Kubernetes()},
		}},
		{cluster, "kubelet-client", identity{name: "kube-apiserver-kubelet-client", organization: masters}},
		{cluster, "admin", identity{name: "kubernetes-admin", organization: masters}},
		{cluster, "kube-controller-manager", identity{name: "system:kube-controller-manager", addresses: []netip.Addr{host}}},
		{cluster, "kube-scheduler", identity{name: "system:kube-scheduler", addresses: []netip.Addr{host}}},
	}
	for i, node := range nodes {
		leaves = append(leaves,
			leaf{cluster, node, identity{name: "system:node:" + node, organization: "system:nodes"}},
			leaf{cluster, node + "-serving", identity{
				name: "system:node:" + node, organization: "system:nodes",
				dnsNames: []string{node}, addresses: []netip.Addr{networks.Node(i + 1)},
			}})
	}
	for _, l := range leaves {
		if err := l.ca.issue(tmp, l.file, l.id); err != nil {
			return err
		}
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(tmp, "sa.key"), key); err != nil {
		return err
	}
	// The API server reads the key that signs service account tokens, and
	// apart from it the key that verifies them.
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode the key of the service accounts: %w", err)
	}
	if err := os.WriteFile(filepath.Join(tmp, "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func newAuthority(dir, file, name string) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template, err := certificate(identity{name: name})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate of %s: %w", name, err)
	}
	if err := writePair(dir, file, der, key); err != nil {
		return nil, err
	}
	return &authority{name: name, cert: cert, key: key}, nil
}

// issue writes FILE.crt and FILE.key for an identity, good for both ends of a
// connection.
func (a *authority) issue(dir, file string, id identity) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	template, err := certificate(id)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("make the certificate of %s: %w", id.name, err)
	}
	return writePair(dir, file, der, key)
}

func certificate(id identity) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	subject := pkix.Name{CommonName: id.name}
	if id.organization != "" {
		subject.Organization = []string{id.organization}
	}
	var ips []net.IP
	for _, addr := range id.addresses {
		ips = append(ips, addr.AsSlice())
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		DNSNames:     id.dnsNames,
		IPAddresses:  ips,
		// A little in the past: the clock may be set back a bit once it is
		// synchronized.
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(certificateLife),
	}, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func writePair(dir, file string, der []byte, key *ecdsa.PrivateKey) error {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, file+".crt"), block, 0o644); err != nil {
		return err
	}
	return writeKey(filepath.Join(dir, file+".key"), key)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode a key: %w", err)
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
