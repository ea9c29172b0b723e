// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// server is the URL of the API server.
func (c *Cluster) server() string {
	return "https://" + netip.AddrPortFrom(c.Networks.Host(), apiPort).String()
}

// client makes an HTTP client that trusts one authority of the cluster and
// shows one of its certificates.
func (c *Cluster) client(ca, identity string) (*http.Client, error) {
	pem, err := os.ReadFile(c.path("pki", ca+".crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the certificate of %s: no certificate in it", ca)
	}
	pair, err := tls.LoadX509KeyPair(c.path("pki", identity+".crt"), c.path("pki", identity+".key"))
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
			DisableKeepAlives: true,
		},
	}, nil
}

// get fetches url and, unless v is nil, decodes the JSON answer into it.
func get(ctx context.Context, client *http.Client, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(body, v)
}

// nodesReady fails unless each node is registered and Ready.
func (c *Cluster) nodesReady(ctx context.Context) error {
	client, err := c.client("ca", "admin")
	if err != nil {
		return err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
	}
	if err := get(ctx, client, c.server()+"/api/v1/nodes", &list); err != nil {
		return err
	}
	reason := map[string]string{}
	for _, name := range c.NodeNames {
		reason[name] = "not registered"
	}
	for _, item := range list.Items {
		if _, ours := reason[item.Metadata.Name]; !ours {
			continue
		}
		reason[item.Metadata.Name] = "no condition Ready"
		for _, condition := range item.Status.Conditions {
			switch {
			case condition.Type != "Ready":
			case condition.Status == "True":
				delete(reason, item.Metadata.Name)
			default:
				reason[item.Metadata.Name] = condition.Message
			}
		}
	}
	for _, name := range c.NodeNames {
		if why, bad := reason[name]; bad {
			return fmt.Errorf("%s is not Ready: %s", name, why)
		}
	}
	return nil
}
