#!/bin/sh
# Makes the manifest of a service.
set -eu
release="$1-$(printf '%s' "$2" | cut -c1-8)"
printf 'service: %s\nimage: registry.example/%s:%s\n' "$1" "$1" "$2" > manifest.yaml
cat manifest.yaml
echo "release=$release" >> "$WAYBILL_OUTPUT"
