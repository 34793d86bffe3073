#!/bin/sh
# Builds the program and makes an image of it, without Docker.
set -eu
cd "$(dirname "$0")"
out=${1:-crunch.tar}
CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags '-s -w' -o crunch/crunch ./crunch
"${WAYBILL:-waybill}" image pack crunch/crunch -t demo/crunch:v1 -o "$out"
rm crunch/crunch
