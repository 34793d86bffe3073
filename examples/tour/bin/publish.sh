#!/bin/sh
# Puts what the steps before made into the bucket results. Inside a unit the
# program knows its server and has the rights of its attempt.
set -eu

waybill object put results "reports/$___STEM.txt" "$___REPORT"
if [ -n "${___SUMMARY-}" ]; then
	waybill object put results "summaries/$___STEM.csv" "$___SUMMARY"
fi
echo "published=results/reports/$___STEM.txt" >> "$WAYBILL_OUTPUT"
