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
compile local pyproject.toml requirements/build.in --extra demo --extra mqtt --constraints requirements/base.txt "$@"
compile dev pyproject.toml requirements/dev.in --extra demo --extra query --extra mqtt --constraints requirements/local.txt "$@"
compile uv requirements/uv.in "$@"
# The wheel for x86-64 is linked to CUDA's libraries: those that gloo on CPUs does without are left out, 1.5 GB.
unused=
for package in triton nvidia-cusolver nvidia-nvtx nvidia-cuda-cccl cuda-bindings cuda-pathfinder cuda-toolkit; do
    unused="$unused --no-emit-package $package"
done
# shellcheck disable=SC2086 - many options
compile torch pyproject.toml requirements/torch.in --constraints requirements/base.txt $unused "$@"
