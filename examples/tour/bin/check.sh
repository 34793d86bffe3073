#!/bin/sh
# Keeps the good rows of the order file that arrived, and says what is wrong with
# the others.
set -eu

refuse() {
	echo "check: $1" >&2
	# The reason appears at the step too, not only in its log.
	waybill callback complete --status failed --error "$1" || true
	exit 1
}

header=order,time,region,product,quantity,unit_price,currency
first=$(head -n 1 "$WAYBILL_OBJECT" | head -c 300 | tr -d '\000\r')
[ "$first" = "$header" ] || refuse "$___NAME is no order file: its first line is not $header"

awk -F, -v rates="$___RATES" -v out="$WAYBILL_OUTPUT" '
function bad(why) {
	if (++refused <= 10) printf "check: line %d refused, %s: %s\n", NR, why, $0
}
BEGIN {
	n = split(rates, list, " ")
	for (i = 1; i <= n; i++) { split(list[i], pair, "="); known[pair[1]] = 1 }
}
{ sub(/\r$/, "") }
NR == 1                                   { print > "clean.csv"; next }
$0 == ""                                  { next }
NF != 7                                   { bad("7 fields wanted, found " NF); next }
$1 !~ /^[A-Z]+-[0-9]+$/                   { bad("not an order number"); next }
$1 in seen                                { bad("the order was on line " seen[$1]); next }
$2 !~ /^[0-9]+-[0-9]+-[0-9]+T[0-9:]+Z$/   { bad("not a time"); next }
$3 == "" || $4 == ""                      { bad("no region or product"); next }
$5 !~ /^-?[1-9][0-9]*$/                   { bad("not a quantity"); next }
$6 !~ /^[0-9]+(\.[0-9]+)?$/               { bad("not a price"); next }
!($7 in known)                            { bad("no rate for the currency"); next }
{ seen[$1] = NR; good++; print > "clean.csv" }
END {
	if (refused > 10) printf "check: and %d more\n", refused - 10
	printf "check: %d good rows, %d refused\n", good, refused
	printf "rows=%d\nbad=%d\n___ROWS=%d\n___BAD=%d\n", good, refused, good, refused > out
	exit good == 0
}' "$WAYBILL_OBJECT" || refuse "$___NAME holds no row that can be used"
