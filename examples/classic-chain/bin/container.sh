#!/bin/sh
# A script as it ran in a container of the classic chain. It knows nothing of Waybill: it
# reads the ___ variables from its environment, does its work, adds a variable, and posts
# the whole set to the URL of the next stage.
set -eu

echo "I am ${___ContainerName} from image ${___Imagename}"
___NewVarFromContainer="made in ${___ContainerName}"
___LineCount=$(printf 'one\ntwo\nthree\n' | wc -l | tr -d ' ')

body=$(
	printf '{'
	sep=
	for name in $(env | sed -n 's/^\(___[A-Za-z0-9_]*\)=.*/\1/p' | grep -v '^___NextStageFunctionUrl$' | sort) ___NewVarFromContainer ___LineCount; do
		eval "value=\$$name"
		printf '%s"%s":"%s"' "$sep" "$name" "$(printf '%s' "$value" | sed 's/\\/\\\\/g; s/"/\\"/g')"
		sep=,
	done
	printf '}'
)

curl --fail --silent --show-error --retry 5 --retry-connrefused \
	--request POST --header 'Content-Type: application/json' --data "$body" \
	"$___NextStageFunctionUrl"
echo "called the next stage"
