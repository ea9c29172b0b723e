# Everything that is done with this repository. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ebpm
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CACHE)/tools/golangci-lint-$(GOLANGCI_VERSION)

# What is not Go: the compiler of eBPF, and what the race detector links with. The
# test cluster installs what it needs itself.
APT_BUILD := clang llvm
APT_TEST := $(APT_BUILD) gcc libc6-dev ca-certificates git
# What eunomia-bpf's runner is compiled with, and what else ours is measured beside.
APT_INTEROP := $(APT_BUILD) gcc libc6-dev pkg-config libelf-dev zlib1g-dev libssl-dev
APT_BENCH := $(APT_TEST) bpftrace

# $(call apt,PACKAGES) installs those that are missing.
define apt
missing=$$(for p in $(1); do dpkg-query -W -f '$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || echo $$p; done); \
if [ -n "$$missing" ]; then \
  echo "installing:" $$missing; \
  export DEBIAN_FRONTEND=noninteractive; \
  apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; \
fi >&2
endef

GOFLAGS_RELEASE := -trimpath -buildvcs=false -ldflags "-s -w"
GO_BUILD_IMAGE := CGO_ENABLED=0 GOOS=linux go build $(GOFLAGS_RELEASE) -tags node,urfave_cli_no_docs
CTL := bin/.cluster

##@ Using ebpm

build: ## build ebpm, ecc and ecli into bin/
	CGO_ENABLED=0 go build $(GOFLAGS_RELEASE) -tags urfave_cli_no_docs -o bin/ ./cmd/ebpm ./cmd/ecc ./cmd/ecli

# It builds the programs itself, beside the cluster.
demo: deps ## show the whole of ebpm on this machine and on a cluster
	go run ./e2e/demo/cmd -readme README.md

# make images PUSH=REGISTRY[/PATH] also pushes them, and prints how to use them.
images: deps image-programs ## build the container images into dist/images; PUSH=REGISTRY pushes them
	@go run ./builder/image/cmd -bin bin/image -o dist/images $(if $(PUSH),-push $(PUSH)) | \
	  sed -e 's/^ebpm /$(if $(PUSH),export EBPM_IMAGE=,ebpm )/' -e 's/^ebpm-builder /$(if $(PUSH),export EBPM_BUILDER_IMAGE=,ebpm-builder )/'

# The ebpm of the image is built without the commands for clusters. Nodes are of
# both architectures; the builder's image is for this machine's only.
image-programs:
	for arch in amd64 arm64; do \
	  GOARCH=$$arch $(GO_BUILD_IMAGE) -o bin/image/$$arch/ ./cmd/ebpm ./cmd/ecli; \
	done
	$(GO_BUILD_IMAGE) -o bin/image/$$(go env GOARCH)/ ./cmd/ecc

##@ A real cluster of two nodes, from source

cluster-up: deps build image-programs $(CTL) ## start it, with both images in its registry
	$(CTL) up
	$(CTL) images bin/image

cluster-down: $(CTL) ## take all of it away
	$(CTL) down

cluster-env: $(CTL) ## print what a shell needs to use it: eval "$(make -s cluster-env)"
	@$(CTL) env $(CURDIR)/bin

# The Go command knows what is up to date.
$(CTL): FORCE
	@go build -buildvcs=false -o $@ ./e2e/cluster/ctl

FORCE:

##@ Developing

check: lint ## format, vet, lint, generated files, import rules
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "not formatted (gofmt -w): $$files"; exit 1; }
	go mod tidy -diff
	go vet -tags e2e ./...
	GOOS=darwin go build -o /dev/null ./cmd/ebpm
	go test ./e2e/house ./cmd/ebpm -run 'Imports|Folders|Docs|Standalone'

lint: $(GOLANGCI)
	$(GOLANGCI) run --build-tags e2e ./...

$(GOLANGCI):
	@mkdir -p $(@D)
	GOBIN=$(@D)/build-$(GOLANGCI_VERSION) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(@D)/build-$(GOLANGCI_VERSION)/golangci-lint $@
	rmdir $(@D)/build-$(GOLANGCI_VERSION)

test: deps build ## every test, those on the real cluster and on other kernels included
	go run ./e2e/report -skips e2e/skips.txt -- -race -timeout 20m ./...
	$(MAKE) kernels
	$(MAKE) e2e

e2e: deps build image-programs ## the tests on the real cluster; it is left as it was found
	go run ./e2e/report -skips e2e/skips.txt -- -tags e2e -count 1 -p 1 -timeout 40m ./e2e ./e2e/handover ./builder/image

# With UPDATE=1 it also writes the tables of docs/hooks.md and docs/handover-hooks.md.
kernels: deps ## the tests of the runner and the examples on Debian's kernels 6.1 and 6.12, in QEMU
	go run ./e2e/report -skips e2e/skips.txt -- -tags e2e -count 1 -timeout 50m ./e2e/kernel $(if $(UPDATE),-update)

# What a target found that fails is a file below its package's testdata/fuzz; what
# else it learned is kept in Go's build cache, and goes on from there.
FUZZTIME := 10m
FUZZJOBS := 2
fuzz: ## run each fuzz target for FUZZTIME (10m), FUZZJOBS (2) at once
	@git grep -n -o '^func Fuzz[A-Za-z0-9]*' -- '*_test.go' | \
	  sed -E 's,^(.*)/[^/]*:[0-9]+:func (Fuzz.*),./\1 \2,' | \
	  xargs -P $(FUZZJOBS) -L 1 sh -c 'out=$$(go test $$0 -run "^$$" -fuzz "^$$1\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -parallel 1 2>&1) && \
	    echo "ok   $$0 $$1: $$(echo "$$out" | grep -o "execs: [0-9]*" | tail -1)" || { echo "FAIL $$0 $$1"; echo "$$out" | tail -40; exit 1; }'

# make bench BENCH='runner compiler' does without the cluster.
bench: deps-bench build image-programs ## print the figures that the documentation quotes
	go run ./e2e/bench $(BENCH)

# The moves and kills of instances in full, some ten minutes.
bench-handover: deps build ## print what handovers lose under load and under SIGKILL
	go test -tags e2e -count 1 -timeout 60m -v -run 'Moves|Kill' ./e2e/handover -full

interop: build ## compare what ecli prints with eunomia-bpf's own, which cargo compiles the first time
	@if [ -n "$$(command -v cargo $${CARGO_HOME:-$$HOME/.cargo}/bin/cargo)" ]; then $(call apt,$(APT_INTEROP)); fi
	@go run ./e2e/interop

deps: ## install by apt what is missing (Debian 12, root)
	@$(call apt,$(APT_TEST))

deps-bench:
	@$(call apt,$(APT_BENCH))

clean: ## remove what was built here; caches and clusters stay
	rm -rf bin dist

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: FORCE build image-programs demo images cluster-up cluster-down cluster-env check lint test e2e kernels fuzz bench bench-handover interop deps deps-bench clean help
