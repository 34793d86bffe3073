#!/usr/bin/env bash
# Every check of the source tree: format, vet, and all tests under the race
# detector. Needs Go; as root on Debian it installs the rest. Works without a
# terminal, in a fresh clone, at any path.
#
#   CI=true                a missing dependency or a skipped test is a failure
#   WAYBILL_TEST_POSTGRES  URL of a database to use instead of an own server
#   scripts/test.sh ./internal/queue/...   only these packages
. "$(dirname "$0")/common.sh"

packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(./...)
ci=${CI:-}

# What tests need beyond Go. Each line: how to see that it is there, the Debian
# package, and what is left out without it. Chromium will be added
# here when tests need it.
missing=()
have_cc() { command -v gcc >/dev/null && [ -e /usr/include/stdlib.h ]; }
have_postgres() {
	[ -n "${WAYBILL_TEST_POSTGRES:-}" ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}
have_rabbitmq() { [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; }
have_runc() { [ "$(id -u)" != 0 ] || command -v runc >/dev/null; }
have_curl() { command -v curl >/dev/null; }
have_docker() { command -v dockerd >/dev/null && command -v containerd >/dev/null && command -v runc >/dev/null; }
have_busybox() { [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; } # ldd fails for what is static
have_npm() { command -v node >/dev/null && command -v npm >/dev/null; }
# Azurite stands in for Azure Storage. This is the last version that runs on Debian's Node.
azurite_version=3.35.0
azurite_home="${XDG_CACHE_HOME:-$HOME/.cache}/waybill/azurite-$azurite_version"
have_azurite() {
	[ -n "${WAYBILL_AZURITE:-}" ] || command -v azurite >/dev/null || [ -x "$azurite_home/node_modules/.bin/azurite" ]
}
# A package of a service must not start it: tests start their own.
no_services() {
	[ "$(id -u)" = 0 ] && [ ! -e /usr/sbin/policy-rc.d ] || return 0
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}
need() { # CHECK PACKAGES WITHOUT
	if $1; then return; fi
	# shellcheck disable=SC2086 # a list of packages
	no_services
	if apt_install $2 && $1; then return; fi
	missing+=("$2")
	say "missing: $2; without it $3. Install it with: apt-get install $2"
}
step "dependencies"
need have_cc "gcc libc6-dev" "there is no race detector"
need have_postgres "postgresql" "the tests of the PostgreSQL store are left out"
need have_rabbitmq "rabbitmq-server" "the tests of messages from RabbitMQ are left out"
need have_runc "runc" "the tests of containers without a daemon are left out"
need have_busybox "busybox-static" "the tests of containers have no image"
need have_curl "curl" "the example of the classic chain does not run"
need have_docker "docker.io iptables" "the tests of containers of Docker are left out"
if ! have_azurite; then
	need have_npm "nodejs npm" "Azurite cannot be installed"
	if have_npm; then
		say "installing: azurite $azurite_version"
		mkdir -p "$azurite_home"
		npm install --silent --no-audit --no-fund --prefix "$azurite_home" "azurite@$azurite_version" >/dev/null 2>&1 || true
	fi
	if ! have_azurite; then
		missing+=("azurite $azurite_version")
		say "missing: azurite; without it the tests of Azure Storage are left out. Install it with: npm install --prefix $azurite_home azurite@$azurite_version"
	fi
fi
go mod download
# The generator of the API's code is a module of its own.
if ! go tool -modfile=tools/go.mod -n oapi-codegen >/dev/null 2>&1; then
	missing+=("modules of tools/go.mod")
	say "missing: the modules of tools/go.mod; without them generated code is not compared with api/openapi.yaml"
fi
if [ ${#missing[@]} -eq 0 ]; then
	say "everything is here"
elif [ "$ci" = true ]; then
	die "missing: ${missing[*]}"
fi
if [ ${#missing[@]} -eq 0 ] || [ "$ci" = true ]; then
	export WAYBILL_REQUIRE_ALL=1
fi
race=()
if have_cc; then
	race=(-race)
	export CGO_ENABLED=1
fi

step "gofmt"
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
	files() { git ls-files -co --exclude-standard '*.go'; }
else # an archive of the tree, or a clone of another user's
	files() { find . -name '*.go' -not -path './bin/*'; }
fi
unformatted=$(files | while read -r f; do [ ! -e "$f" ] || echo "$f"; done | xargs gofmt -l)
[ -z "$unformatted" ] || die "not formatted, run make fmt:"$'\n'"$unformatted"

step "go vet"
go vet "${packages[@]}"
# The client and the command line are for every platform. Windows is the one that
# shares the least with this one.
CGO_ENABLED=0 GOOS=windows go vet . ./client ./internal/cli

step "go test ${race[*]} ${packages[*]}"
strict=0
[ "$ci" != true ] || strict=1
# -v tells what was skipped; the filter shows that and the line of each package,
# and all of a package that failed.
# Tests that can share an engine of Docker have one between them.
engine=()
if have_docker; then
	engine=(bin/tools/engine)
	mkdir -p bin/tools
	go build -o bin/tools/engine ./conformance/engine
fi
"${engine[@]}" go test "${race[@]}" -shuffle=on -timeout 20m -p 2 -v "${packages[@]}" 2>&1 | awk -v strict=$strict -f scripts/test.awk
