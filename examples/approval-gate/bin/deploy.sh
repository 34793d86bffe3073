#!/bin/sh
# Stands for a deployment.
set -eu
echo "$2 is in $1 for change $3"
