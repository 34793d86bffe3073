#!/bin/sh
# Ranks products and regions by what they brought in.
set -eu

refuse() {
	echo "rank: $1" >&2
	waybill callback complete --status failed --error "$1" || true
	exit 1
}

awk -F, -v region="$REGION" 'region == "all" || $1 == region' "$___LINES" > chosen.csv
[ -s chosen.csv ] ||
	refuse "nothing was sold in region $REGION; there are: $(cut -d , -f 1 "$___LINES" | sort -u | tr '\n' ' ')"

# total adds up the lines by one of their columns, the largest first.
total() {
	awk -F, -v by="$1" '{ o[$by] += $3; u[$by] += $4; m[$by] += $5 }
		END { for (k in o) printf "%s,%d,%d,%.2f\n", k, o[k], u[k], m[k] }' chosen.csv |
		sort -t , -k 4,4nr -k 1,1
}

table=${0%/*}/table.awk
{
	echo "Sales report, region $REGION, from $___FILES files"
	echo
	total 1 | awk -F, -v title=REGION -f "$table"
	echo
	total 2 | awk -F, -v title=PRODUCT -v top="$TOP" -f "$table"
} > report.txt

cat report.txt
awk -F, '{ n += $5 } END { printf "revenue=%.2f\n", n }' chosen.csv >> "$WAYBILL_OUTPUT"
