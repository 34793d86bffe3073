# Sourced by the other scripts: a place to stand and an environment to rely on.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null # nothing here may ask a question

# A service manager or a bare container may give us neither.
export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
export PATH="$PATH:/usr/local/go/bin"
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"

step() { printf '\n== %s\n' "$*"; }
say() { printf '%s\n' "$*"; }
die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

command -v go >/dev/null || die "Go is not installed: https://go.dev/dl, or the version in go.mod or newer in the PATH"

# apt_install PACKAGE...: install what is not there. Only root on Debian or a system like it
# can; everybody else is told.
apt_install() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
	export DEBIAN_FRONTEND=noninteractive
	say "installing: $*"
	local log
	log=$(mktemp)
	if ! { apt-get -q update && apt-get -qy install --no-install-recommends "$@"; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}
