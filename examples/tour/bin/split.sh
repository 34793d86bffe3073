#!/bin/sh
# Parts sales from returns. Both come in the order of region, product and time.
set -eu

tail -n +2 "$___CLEAN" | sort -t , -k 3,3 -k 4,4 -k 2,2 |
	awk -F, '{ print > ($5 < 0 ? "returns.csv" : "sales.csv") }'
touch sales.csv returns.csv # a file may hold one kind only

sales=$(wc -l < sales.csv)
returns=$(wc -l < returns.csv)
echo "split: $sales sales, $returns returns"
printf 'sales=%d\nreturns=%d\n' "$sales" "$returns" >> "$WAYBILL_OUTPUT"
