#!/bin/sh
# Stands for what builds, commits and renders: what comes out follows from what goes in.
set -eu
sum=$(printf '%s' "$WAYBILL_STEP $1" | sha256sum | cut -d' ' -f1)
printf 'commit=%.40s\ndigest=sha256:%s\n' "$sum" "$sum" > "$WAYBILL_OUTPUT"
