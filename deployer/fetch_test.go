// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// movingRegistry has one package. Its tag is another one's as soon as it was
// resolved.
type movingRegistry struct {
	t    *testing.T
	file string
	pkg  *Package
}

func (r movingRegistry) Index(_ context.Context, ref manifest.Reference) (*registry.Index, error) {
	index := &registry.Index{Reference: ref.WithDigest(r.pkg.Reference.Digest)}
	for _, architecture := range []string{"amd64", "arm64"} {
		index.Platforms = append(index.Platforms, registry.PlatformManifest{Platform: manifest.Platform{OS: "linux", Architecture: architecture}})
	}
	return index, nil
}

func (r movingRegistry) Fetch(_ context.Context, ref manifest.Reference, _ manifest.Platform) (*registry.Pulled, error) {
	if ref.Tag != "" || ref.Digest != r.pkg.Reference.Digest {
		r.t.Errorf("%s is resolved again", ref)
	}
	data, err := os.ReadFile(filepath.Join("testdata", r.file+".package.json"))
	return &registry.Pulled{Child: registry.Child{Config: r.pkg.Platforms[0].Config, Package: data}}, err
}

// A tag is resolved once, whatever the number of platforms; it stays known.
func TestFetchPackageResolvesOnce(t *testing.T) {
	r := movingRegistry{t, "event-one", testPackage(t, "event-one", "opensnoop", "1.0.0")}
	ref := r.pkg.Reference.WithTag("1.0.0")
	p, err := FetchPackage(t.Context(), r, ref)
	if err != nil {
		t.Fatal(err)
	}
	if p.Reference != r.pkg.Reference || len(p.Platforms) != 2 {
		t.Errorf("package %+v", p)
	}
}

// Maps that the runner refuses on every node are refused before the deploy. The
// package has one array map of 1<<30 values of 8 bytes.
func TestNewPlatformPackageBoundsMaps(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "huge-map.package.json"))
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := manifest.DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	platform := manifest.Platform{OS: "linux", Architecture: "amd64"}
	config, err := manifest.NewConfig(&manifest.Spec{Name: "huge"}, platform, decoded, manifest.BuildFacts{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewPlatformPackage(platform, config, data)
	wantKind(t, err, manifest.KindUnverified, "package for linux/amd64: the maps take ", "max_entries")
}
