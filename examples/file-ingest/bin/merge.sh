#!/bin/sh
# Adds up the parts and holds the sum against the original.
set -eu
words=$(tr -d '[]' < counts.json | tr ',' '\n' | awk '{ s += $1 } END { print s + 0 }')
whole=$(wc -w < original.txt)
if [ "$words" -ne "$whole" ]; then
	echo "the parts have $words words and the whole $whole" >&2
	exit 1
fi
echo "$___NAME has $words words" | tee summary.txt
printf '{"words": %d}\n' "$words" >> "$WAYBILL_OUTPUT"
