# "make" says what there is. Only Go is needed to build and to run the demo.

SHELL := /bin/sh
GO ?= go
MODULE := github.com/waybill-run/waybill
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X $(MODULE)/internal/app.version=$(VERSION)

# The version is set above; what git says of the checkout is not needed, and fails
# where the checkout belongs to somebody else.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help build slim demo test campaign bench lint fmt generate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/waybill, one static file
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/waybill ./cmd/waybill

slim: ## build bin/waybill-slim, without the clouds of Google and Azure, Kubernetes, git and the suite of facets
	CGO_ENABLED=0 $(GO) build -tags slim -trimpath -ldflags "$(LDFLAGS)" -o bin/waybill-slim ./cmd/waybill

demo: build ## run a server on an example project in a temporary folder
	bin/waybill demo

test: ## format, vet and every test, with the race detector (as root: installs what is missing)
	scripts/test.sh

campaign: ## kill and fault campaigns at full size (an hour or more)
	scripts/campaign.sh

bench: ## benchmarks of every package; BENCH=regexp, COUNT=n
	$(GO) test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem -count $(or $(COUNT),1) -p 1 -timeout 60m ./...

lint: ## golangci-lint, built into bin/tools at a pinned version
	scripts/lint.sh

fmt: ## format the Go files
	gofmt -l -w $$(git ls-files -co --exclude-standard '*.go')

generate: ## make generated code again: server and client from api/openapi.yaml
	$(GO) generate ./...

clean: ## remove what was built
	rm -rf bin
