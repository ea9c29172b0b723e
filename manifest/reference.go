// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	_ "crypto/sha256" // the digests of references
	"github.com/opencontainers/go-digest"
)

// Scheme says where a [Reference] points.
type Scheme string

// The schemes. A registry has no prefix in a reference's text.
const (
	SchemeRegistry Scheme = ""
	SchemeLayout   Scheme = "oci"         // an OCI layout in a folder
	SchemeArchive  Scheme = "oci-archive" // an OCI layout in a tar file
)

// DefaultTag is the tag of a reference that names none.
const DefaultTag = "latest"

// Reference names a package: [REGISTRY/]REPOSITORY[:TAG][@DIGEST], or
// oci:DIR[:TAG][@DIGEST], or oci-archive:FILE[:TAG][@DIGEST].
type Reference struct {
	Scheme Scheme
	// Registry is HOST[:PORT], for SchemeRegistry.
	Registry string
	// Repository is the path in the registry, for SchemeRegistry.
	Repository string
	// Path is the folder or file, for the other schemes.
	Path   string
	Tag    string
	Digest digest.Digest
}

var (
	componentRE = nameRE
	// The grammars of the distribution specification 1.1.
	tagRE  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hostRE = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
)

const maxRepository = 255

// errNoRegistry is found by errors.Is on a short name without a default.
var errNoRegistry = errors.New("the reference names no registry, and no default registry is set")

// ParseReference reads a reference. A registry is recognised by a first
// component with a dot or a colon in it, or localhost; otherwise
// defaultRegistry, which may have a path (registry.example/team), goes in
// front. Errors are of [KindUsage].
func ParseReference(s, defaultRegistry string) (Reference, error) {
	r, err := parseReference(s, defaultRegistry)
	if err != nil {
		advice := ""
		if errors.Is(err, errNoRegistry) {
			advice = "Name it (REGISTRY/" + s + "), or set EBPM_REGISTRY or `registry:` in the configuration."
		}
		return Reference{}, WithKind(KindUsage, fmt.Errorf("parse reference %q: %w", s, err), advice)
	}
	return r, nil
}

func parseReference(s, defaultRegistry string) (Reference, error) {
	var r Reference
	rest := s
	if before, d, ok := strings.Cut(s, "@"); ok {
		parsed, err := digest.Parse(d)
		if err != nil {
			return r, fmt.Errorf("digest %q: %w", d, err)
		}
		if parsed.Algorithm() != digest.SHA256 {
			return r, fmt.Errorf("digest %q: only sha256 is supported", d)
		}
		r.Digest, rest = parsed, before
	}
	for _, scheme := range []Scheme{SchemeLayout, SchemeArchive} {
		if p, ok := strings.CutPrefix(rest, string(scheme)+":"); ok {
			r.Scheme = scheme
			r.Path, r.Tag = cutTag(p)
			if r.Path == "" {
				return r, errors.New("no path behind the colon")
			}
			return r, nil
		}
	}
	repository, tag := cutTag(rest)
	if tag == "" && strings.Contains(rest[strings.LastIndex(rest, "/")+1:], ":") && strings.Contains(rest, "/") {
		return r, fmt.Errorf("tag %q: wanted at most 128 letters, digits, dots, dashes or underscores", rest[strings.LastIndex(rest, ":")+1:])
	}
	r.Tag = tag
	first, _, hasPath := strings.Cut(repository, "/")
	if !hasPath || !namesRegistry(first) {
		if err := checkRepository(repository); err != nil {
			return r, err
		}
		if defaultRegistry == "" {
			return r, errNoRegistry
		}
		if host, _, _ := strings.Cut(defaultRegistry, "/"); !namesRegistry(host) {
			return r, fmt.Errorf("the default registry %q: its first part has no dot or colon, and is not localhost, so that it could be a repository", defaultRegistry)
		}
		repository = strings.TrimSuffix(defaultRegistry, "/") + "/" + repository
	}
	r.Registry, r.Repository, _ = strings.Cut(repository, "/")
	if err := checkHost(r.Registry); err != nil {
		return r, err
	}
	return r, checkRepository(r.Repository)
}

// namesRegistry reports whether the first component of a reference is a registry.
func namesRegistry(first string) bool {
	return first == "localhost" || strings.ContainsAny(first, ".:")
}

// IsTag reports whether s can be a tag: at most 128 letters, digits, dots, dashes
// and underscores, the first of them no dot or dash.
func IsTag(s string) bool { return tagRE.MatchString(s) }

// cutTag cuts :TAG off; a colon before a slash is part of the name.
func cutTag(s string) (name, tag string) {
	i := strings.LastIndex(s, ":")
	if i < 0 || strings.Contains(s[i:], "/") || !IsTag(s[i+1:]) {
		return s, ""
	}
	return s[:i], s[i+1:]
}

func checkRepository(s string) error {
	if s == "" {
		return errors.New("no repository")
	}
	if len(s) > maxRepository {
		return fmt.Errorf("repository of %d characters, at most %d are allowed", len(s), maxRepository)
	}
	for component := range strings.SplitSeq(s, "/") {
		if !componentRE.MatchString(component) {
			return fmt.Errorf("repository %q: %q is not lower case letters and digits with . _ - between them", s, component)
		}
	}
	return nil
}

func checkHost(s string) error {
	if addr, err := netip.ParseAddrPort(s); err == nil && addr.Port() != 0 {
		return nil
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if _, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err == nil && strings.HasSuffix(inner, "]") {
			return nil
		}
		return fmt.Errorf("registry %q: not an address", s)
	}
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("registry %q: port %q is not a number from 1 to 65535", s, port)
		}
	}
	if !hostRE.MatchString(host) {
		return fmt.Errorf("registry %q: %q is not a host name", s, host)
	}
	return nil
}

// String returns the full reference, which parses to the same value.
func (r Reference) String() string {
	var b strings.Builder
	if r.Scheme == SchemeRegistry {
		b.WriteString(r.Context())
	} else {
		b.WriteString(string(r.Scheme) + ":" + r.Path)
	}
	if r.Tag != "" {
		b.WriteString(":" + r.Tag)
	}
	if r.Digest != "" {
		b.WriteString("@" + r.Digest.String())
	}
	return b.String()
}

// Context returns REGISTRY/REPOSITORY, or SCHEME:PATH.
func (r Reference) Context() string {
	if r.Scheme == SchemeRegistry {
		return r.Registry + "/" + r.Repository
	}
	return string(r.Scheme) + ":" + r.Path
}

// Name returns the last component of the repository or path.
func (r Reference) Name() string {
	s := r.Repository
	if r.Scheme != SchemeRegistry {
		s = strings.TrimRight(r.Path, "/")
	}
	return s[strings.LastIndex(s, "/")+1:]
}

// Package returns REPOSITORY:TAG, or REPOSITORY@ and the start of the digest
// where there is no tag: what tables show. A layout's is its [Reference.Name].
func (r Reference) Package() string {
	name := r.Repository
	if r.Scheme != SchemeRegistry {
		name = r.Name()
	}
	switch {
	case r.Tag != "":
		return name + ":" + r.Tag
	case r.Digest != "":
		return name + "@" + ShortDigest(r.Digest.String())
	}
	return name
}

// ShortDigest returns enough of a digest to tell it from others: its algorithm
// and 12 digits. What is no digest comes back as it is.
func ShortDigest(d string) string {
	const digits = 12
	algorithm, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) < digits {
		return d
	}
	return algorithm + ":" + hex[:digits]
}

// WithDefaultTag returns r with [DefaultTag] when it has neither tag nor digest.
func (r Reference) WithDefaultTag() Reference {
	if r.Tag == "" && r.Digest == "" {
		r.Tag = DefaultTag
	}
	return r
}

// WithTag returns r with another tag and no digest.
func (r Reference) WithTag(tag string) Reference {
	r.Tag, r.Digest = tag, ""
	return r
}

// WithDigest returns r with a digest; its tag stays.
func (r Reference) WithDigest(d digest.Digest) Reference {
	r.Digest = d
	return r
}

// Pinned returns r by its digest alone, without the tag: what a node is given.
func (r Reference) Pinned() Reference {
	r.Tag = ""
	return r
}

// IsLoopback reports whether the registry of r is this machine, which is
// reached without TLS unasked: localhost, 127.0.0.1 or ::1.
func (r Reference) IsLoopback() bool {
	return r.Scheme == SchemeRegistry && IsLoopbackHost(r.Registry)
}

// IsLoopbackHost is [Reference.IsLoopback] for a HOST[:PORT].
func IsLoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}
