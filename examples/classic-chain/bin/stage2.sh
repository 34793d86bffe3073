#!/bin/sh
# The second stage: everything that was known before, and what the container added.
set -eu
echo "container:  ${___ContainerName}"
echo "it made:    ${___NewVarFromContainer}"
echo "lines:      ${___LineCount}"
