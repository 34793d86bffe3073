#!/bin/sh
# Counts the words of one part and finds the most frequent ones.
set -eu
words=$(wc -w < "$1")
tr -cs '[:alpha:]' '\n' < "$1" | tr '[:upper:]' '[:lower:]' | grep . | sort | uniq -c | sort -rn | head -5 > top.txt
cat top.txt
printf '{"words": %d}\n' "$words" >> "$WAYBILL_OUTPUT"
