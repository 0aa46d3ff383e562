#!/bin/sh
# Compile the hash-pinned requirement files of the peers from the .in files beside this script.
#
# usage: bench/requirements/compile.sh [uv pip compile options, e.g. --upgrade]
set -eu
cd "$(dirname "$0")/../.."
uv=$(tools/find-uv.sh)
cd bench/requirements
for asked in *.in; do
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links --output-file "${asked%.in}.txt" "$@" "$asked"
    echo "compiled bench/requirements/${asked%.in}.txt"
done
