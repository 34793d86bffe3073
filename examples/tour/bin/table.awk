# Prints lines of "name,orders,units,money" as a table, the largest first as they
# come. -v title=… heads the first column, -v top=… shows so many lines only.

# group writes a number with its thousands apart: 1203442.1 is 1,203,442.10 with
# two digits after the point.
function group(x, digits,    s, whole, rest, sign) {
	s = sprintf("%." digits "f", x)
	if (s ~ /^-/) { sign = "-"; s = substr(s, 2) }
	whole = s
	if (digits > 0) { whole = substr(s, 1, length(s) - digits - 1); rest = substr(s, length(whole) + 1) }
	while (length(whole) > 3) {
		rest = "," substr(whole, length(whole) - 2) rest
		whole = substr(whole, 1, length(whole) - 3)
	}
	return sign whole rest
}

{ name[NR] = $1; orders[NR] = $2; units[NR] = $3; money[NR] = $4; o += $2; u += $3; m += $4 }

END {
	printf "  %-16s %8s %9s %15s %8s\n", title, "ORDERS", "UNITS", "EUR", "SHARE"
	for (i = 1; i <= NR && (!top || i <= top); i++)
		printf "  %-16s %8s %9s %15s %8s\n", name[i], group(orders[i], 0), group(units[i], 0), group(money[i], 2), \
			m == 0 ? "" : sprintf("%.1f%%", 100 * money[i] / m)
	printf "  %-16s %8s %9s %15s\n", "all", group(o, 0), group(u, 0), group(m, 2)
}
