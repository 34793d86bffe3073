#!/bin/sh
# Adds up the figures of all regions.
set -eu
# {"regions":["a","b"],"revenue":[1,2]} → one line for each region
lists=$(tr -d '[:space:]"' < "$1")
regions=$(printf '%s' "$lists" | sed 's/.*regions:\[\([^]]*\)\].*/\1/')
revenue=$(printf '%s' "$lists" | sed 's/.*revenue:\[\([^]]*\)\].*/\1/')
{
	echo "Revenue of $___DAY"
	echo
	printf '%s\n%s\n' "$regions" "$revenue" | awk -F, '
		NR == 1 { for (i = 1; i <= NF; i++) name[i] = $i }
		NR == 2 { for (i = 1; i <= NF; i++) { printf "%-10s %8d\n", name[i], $i; sum += $i }; printf "%-10s %8d\n", "total", sum }'
} > report.txt
cat report.txt
printf '{"total": %d}\n' "$(awk '$1 == "total" { print $2 }' report.txt)" >> "$WAYBILL_OUTPUT"
