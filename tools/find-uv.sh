#!/bin/sh
# Print the path of uv: the one on PATH, else the pinned one in .tools/, fetched now if need be.
# Nothing is installed outside this folder.
set -eu
cd "$(dirname "$0")/.."

if command -v uv 2>/dev/null; then exit 0; fi
uv=$PWD/.tools/uv/bin/uv
if [ -x "$uv" ] && cmp -s requirements/uv.txt .tools/uv/installed.txt; then
    echo "$uv"
    exit 0
fi

python=$(tools/find-python.sh)
rm -rf .tools/uv
mkdir -p .tools
if "$python" -m pip --version >/dev/null 2>&1; then
    pip=$python
elif "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv .tools/pip >/dev/null; then
    pip=.tools/pip/bin/python
else
    # Debian splits ensurepip off, so a bare python3 can neither make an environment nor install into one.
    echo "runwire: can't fetch uv: this Python has no pip (Debian: apt-get install python3-venv), or put uv on PATH" >&2
    exit 1
fi
echo "fetching uv into .tools/" >&2
if ! PIP_ROOT_USER_ACTION=ignore "$pip" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --target .tools/uv --requirement requirements/uv.txt >&2; then
    echo "runwire: can't fetch uv: the Python package index is out of reach; put uv on PATH or repair the network" >&2
    exit 1
fi
rm -rf .tools/pip
cp requirements/uv.txt .tools/uv/installed.txt
echo "$uv"
