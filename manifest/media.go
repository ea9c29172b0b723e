// SPDX-License-Identifier: Apache-2.0

package manifest

// Media types of a package artifact.
const (
	// ArtifactType is the artifactType of the index and of its children.
	ArtifactType = "application/vnd.ebpm.package.v1"
	// ConfigMediaType is that of the config blob, a [Config] as JSON.
	ConfigMediaType = "application/vnd.ebpm.package.config.v1+json"
	// PackageMediaType is that of the layer package.json.
	PackageMediaType = "application/vnd.ebpm.bpf.v1+json"
	// SourceMediaType is that of the layer source.tar.
	SourceMediaType = "application/vnd.ebpm.source.v1.tar"
	// ReadmeMediaType is that of the layer README.md.
	ReadmeMediaType = "text/markdown"
	// BTFMediaType is that of the layer btf.tar.gz.
	BTFMediaType = "application/vnd.ebpm.btf.v1.tar+gzip"
	// SourceArtifactType is the artifactType of a source that waits for its
	// build; its only layer is the one that the package will hold.
	SourceArtifactType = "application/vnd.ebpm.source.v1"
)

// File names of the layers, as org.opencontainers.image.title has them.
const (
	PackageFile = "package.json"
	SourceFile  = "source.tar"
	ReadmeFile  = "README.md"
	// BTFFile has the types of kernels that do not show them.
	BTFFile = "btf.tar.gz"
	// KernelBTFFile is the one of them that this kernel has.
	KernelBTFFile = "kernel.btf"
)

// Bounds of what is read from a registry, in bytes.
const (
	// MaxManifestSize bounds an index, a manifest and a config.
	MaxManifestSize = 4 << 20
	// MaxSourceSize bounds source.tar and what it unpacks to.
	MaxSourceSize = 64 << 20
	// MaxReadmeSize bounds README.md.
	MaxReadmeSize = 1 << 20
	// MaxBTFArchiveSize bounds btf.tar.gz.
	MaxBTFArchiveSize = 64 << 20
	// MaxBTFSize bounds the types of one kernel. Whole ones have 4 to 10 MiB.
	MaxBTFSize = 32 << 20
)
