# Reads "go test -v" and shows, for each package, its closing line and the tests it
# skipped, or everything it wrote when it failed. A skipped test is a failure when
# strict=1. The closing lines are shown once more at the end.

# A suite that several implementations pass leaves out what one of them is not
# made for. That is told by the reason and misses nothing.
function by_design(reason) {
	return reason ~ /this runner executes no real program|units of this runner end with the server|this runner has no program that cannot be started|a unit of this runner is a request, not a program|units of this runner are no containers|the platform shows nothing|units cannot be removed behind the runner's back/
}

function next_package() {
	lines = skips = 0
	split("", said)
}

# Whose output follows.
/^=== (RUN|PAUSE|CONT|NAME) / { current = $3; next }

{ line[++lines] = $0 }

/^ *--- SKIP: / {
	if (!by_design(said[$3])) {
		skip[++skips] = $0 said[$3]
		skipped++
	}
	next
}

/^ +[^ -]/ { said[current] = said[current] "\n" $0; next }

/^ok  \t/ {
	for (i = 1; i <= skips; i++) print skip[i]
	print
	closing[++packages] = $0
	next_package()
	next
}

/^\?   \t/ || /^\t.*coverage: 0.0% of statements$/ { next_package(); next }

/^FAIL\t/ {
	for (i = 1; i <= lines; i++) if (line[i] !~ /^ *--- (PASS|SKIP)/) print line[i]
	closing[++packages] = $0
	failed++
	next_package()
	next
}

END {
	# What belongs to no package: a build that failed, a wrong flag.
	for (i = 1; i <= lines; i++) if (line[i] != "FAIL") print line[i]
	printf "\n%d packages, %d failed, %d tests skipped\n", packages, failed, skipped
	for (i = 1; i <= packages; i++) print closing[i]
	if (!failed && strict && skipped) print "in CI no test may be skipped"
	if (failed || !packages || strict && skipped) {
		print "FAIL"
		exit 1
	}
}
