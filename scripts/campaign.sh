#!/usr/bin/env bash
# The fault campaigns at full size: servers and stores are killed many times and
# every promise is counted afterwards. The same tests run in "make test" at a
# small size. What they find is printed and kept in bin/campaign.log.
#
#   scripts/campaign.sh -run Kill   arguments go to go test
. "$(dirname "$0")/common.sh"

export WAYBILL_CAMPAIGN=full
mkdir -p bin/tools
step "campaigns: $(go version), $(nproc 2>/dev/null || echo '?') cores, $(uname -sr)"
go build -o bin/tools/engine ./conformance/engine # without Docker it only runs the tests
bin/tools/engine go test -count=1 -timeout 4h -p 1 -v "$@" ./conformance/... ./internal/queue/... ./internal/engine/... ./internal/schedule/... ./facet/... 2>&1 | tee bin/campaign.log | grep -v -E '^=== (RUN|PAUSE|CONT|NAME)'
