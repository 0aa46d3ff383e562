#!/bin/sh
# Compile the hash-pinned requirement files from pyproject.toml and requirements/*.in.
#
# usage: tools/compile.sh [uv pip compile options, e.g. --upgrade or --upgrade-package NAME]
#
# Each set is constrained by the smaller one, so a package has one version in all of them.
# The files must name no registry and no path of the machine they were compiled on.
set -eu
cd "$(dirname "$0")/.."
uv=$(tools/find-uv.sh)

compile() {
    output=requirements/$1.txt
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links --no-emit-package runwire --output-file "$output" "$@"
    echo "compiled $output"
}

compile base pyproject.toml "$@"
compile local pyproject.toml requirements/build.in --extra demo --constraints requirements/base.txt "$@"
compile dev pyproject.toml requirements/dev.in --extra demo --constraints requirements/local.txt "$@"
compile uv requirements/uv.in "$@"
