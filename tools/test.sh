#!/bin/sh
# Run the tests that a marker expression selects, in two processes side by side: most of them wait most of the time.
#
#   tools/test.sh "not long"
#
# Halves are folders, so each starts one broker for most of its tests. The second's output comes when both have ended.
set -u
cd "$(dirname "$0")/.."

marker=$1
second="tests/producer tests/services tests/docs"
first=""
for folder in tests/*/; do
    case " $second " in *" ${folder%/} "*) ;; *) first="$first $folder" ;; esac
done

run() { # run FOLDER...: a half in which no test is selected is a good one
    .venv/bin/python -m pytest -m "$marker" "$@" || { code=$?; [ $code -eq 5 ] || return $code; }
}

output=$(mktemp)
trap 'rm -f "$output"' EXIT
trap 'trap - INT TERM; kill 0' INT TERM
# shellcheck disable=SC2086  # a list of folders
run $second >"$output" 2>&1 &
status=0
# shellcheck disable=SC2086
run $first || status=$?
wait $! || status=$?
cat "$output"
exit $status
