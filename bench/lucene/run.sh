#!/usr/bin/env bash
# Runs Bench.java: documents on standard input, measurements on standard output.
# "waybill facet bench --lucene bench/lucene" calls it.
#
#   run.sh PLAN INDEX ROUNDS < DOCUMENTS
#
# Needs Debian's liblucene8-java and default-jdk-headless, and installs them where
# it may.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
jars=/usr/share/java
say() { echo "bench/lucene: $*" >&2; }

core() { ls "$jars"/lucene-core-8.*.jar 2>/dev/null | sort -V | tail -1; }
if [ -z "$(core)" ] || ! command -v javac >/dev/null; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		say "missing; install with: apt-get install liblucene8-java default-jdk-headless"
		exit 1
	fi
	say "installing liblucene8-java and a JDK"
	packages=(liblucene8-java)
	command -v javac >/dev/null || packages+=(default-jdk-headless)
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" >&2 </dev/null
fi
classes=$(mktemp -d)
trap 'rm -rf "$classes"' EXIT
javac -nowarn -cp "$(core)" -d "$classes" "$here/Bench.java" </dev/null >&2
say "$(basename "$(core)"), $(java -version 2>&1 </dev/null | head -1)"
java -Xms2g -Xmx4g -XX:+UseSerialGC -cp "$(core):$classes" Bench "$@"
