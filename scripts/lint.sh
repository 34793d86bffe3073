#!/usr/bin/env bash
# golangci-lint at a pinned version, built once. Not part of "make test": building
# it takes minutes, and it must not break when a linter changes its mind.
. "$(dirname "$0")/common.sh"

version=v2.15.0
tool=bin/tools/golangci-lint-$version
if [ ! -x "$tool" ]; then
	step "building golangci-lint $version"
	mkdir -p bin/tools
	GOBIN="$PWD/bin/tools" CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version
	mv bin/tools/golangci-lint "$tool"
fi
"$tool" run "$@" ./...
