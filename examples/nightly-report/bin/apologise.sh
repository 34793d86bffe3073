#!/bin/sh
# What readers find instead of a report.
set -eu
printf 'There is no report of %s: step %s failed.\n%s\n' "$___DAY" "$1" "$2" > note.txt
cat note.txt
