#!/bin/sh
# Make or renew .venv.  usage: tools/setup.sh local|dev
#
# local: what `runwire demo` needs.  dev: that, and what tests and checks need.
# The stamps say which set .venv holds; make compares their age with the files they come from.
set -eu
cd "$(dirname "$0")/.."
wanted=$1
# A development environment is never reduced to a local one.
if [ -e .venv/.stamp-dev ]; then wanted=dev; fi

uv=$(tools/find-uv.sh)
if ! .venv/bin/python -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
    python=$(tools/find-python.sh)
    "$uv" venv --quiet --clear --no-python-downloads --python "$python" .venv
fi
rm -f .venv/.stamp-*
echo "installing requirements/$wanted.txt into .venv" >&2
if ! "$uv" pip sync --quiet --python .venv/bin/python --require-hashes "requirements/$wanted.txt"; then
    echo "runwire: the install failed; the lines above say which package, make setup tries again" >&2
    exit 1
fi
# The sync removes the editable install, so it comes last.
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
touch .venv/.stamp-local
if [ "$wanted" = dev ]; then touch .venv/.stamp-dev; fi
