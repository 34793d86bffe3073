#!/bin/sh
# Adds up what was sold and what came back, in EUR.
set -eu

# One line for each region and product: orders, units, money.
awk -F, -v rates="$___RATES" '
BEGIN {
	n = split(rates, list, " ")
	for (i = 1; i <= n; i++) { split(list[i], pair, "="); rate[pair[1]] = pair[2] }
}
{ at = $3 "," $4; orders[at]++; units[at] += $5; money[at] += $5 * $6 * rate[$7] }
END { for (at in orders) printf "%s,%d,%d,%.2f\n", at, orders[at], units[at], money[at] }
' "$___SALES" "$___RETURNS" | sort -t , -k 1,1 -k 2,2 > lines.csv

{
	echo region,product,orders,units,eur
	cat lines.csv
} > summary.csv

{
	echo "Orders of $___NAME"
	echo "$___ROWS rows, $___BAD refused"
	echo
	awk -F, '{ o[$1] += $3; u[$1] += $4; m[$1] += $5 }
		END { for (r in o) printf "%s,%d,%d,%.2f\n", r, o[r], u[r], m[r] }' lines.csv |
		sort -t , -k 4,4nr -k 1,1 | awk -F, -v title=REGION -f "${0%/*}/table.awk"
} > report.txt

cat report.txt
awk -F, '{ n += $5 } END { printf "revenue=%.2f\n", n }' lines.csv >> "$WAYBILL_OUTPUT"
