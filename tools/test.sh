#!/bin/sh
# Run the tests that a marker expression selects, two processes side by side: most of them wait most of the time.
#
#   tools/test.sh "not long"                       all, a part at a time in each process
#   tools/test.sh "not long" tests/cli tests/docs  these folders, in one process
#
# Parts are folders, the longest first, so that both processes end at about the same time; a folder that stands in no
# line here is run with the last one. Those that need a broker are one part: it is started once. A part's output comes
# when it has ended.
set -u
cd "$(dirname "$0")/.."

marker=$1
shift
if [ $# -gt 0 ]; then
    output=$(mktemp)
    trap 'rm -f "$output"' EXIT
    status=0
    .venv/bin/python -m pytest -m "$marker" --durations=10 --durations-min=5 "$@" >"$output" 2>&1 || status=$?
    cat "$output"
    [ $status -eq 5 ] && exit 0 # no test is selected
    exit $status
fi

parts="tests/services tests/docs
tests/producer
tests/consumer
tests/cli
tests/pipeline tests/simulation"
rest=""
for folder in tests/*/; do
    case " $(echo $parts) " in *" ${folder%/} "*) ;; *) rest="$rest ${folder%/}" ;; esac
done

trap 'trap - INT TERM; kill 0' INT TERM
printf '%s\n' "$parts" "${rest# }" | xargs -P 2 -L 1 tools/test.sh "$marker" &
wait $!
