#!/bin/sh
# Stands for a query of a region's database: figures that depend on the region and the day.
set -eu
region=$1
if [ "$region" = "$BROKEN" ]; then
	echo "the database of $region does not answer" >&2
	exit 75 # a temporary failure: tried again
fi
revenue=$(printf '%s%s' "$region" "$___DAY" | cksum | awk '{print $1 % 10000}')
echo "$region: $revenue"
printf 'region=%s\n{"revenue": %d}\n' "$region" "$revenue" >> "$WAYBILL_OUTPUT"
