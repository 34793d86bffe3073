#!/bin/sh
# Cuts the object that arrived into parts of 200 lines, and returns their names.
set -eu
split -l 200 -d -a 4 "$WAYBILL_OBJECT" part.
list=
for f in part.*; do
	key="$WAYBILL_RUN/$f"
	waybill object put parts "$key" "$f" > /dev/null
	list="$list${list:+,}\"$key\""
done
echo "cut $___NAME into $(printf '%s' "$list" | tr ',' '\n' | grep -c .) parts"
printf '{"parts": [%s]}\n' "$list" >> "$WAYBILL_OUTPUT"
