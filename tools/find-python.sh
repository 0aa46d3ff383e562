#!/bin/sh
# Print the path of a Python that Runwire runs on: $PYTHON, else the newest known one on PATH.
# A name on PATH may be a shim for a version that isn't there, so each candidate is run.
set -eu
probe='import sys; assert sys.version_info >= (3, 11); print(sys.executable)'
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c "$probe" 2>/dev/null; then exit 0; fi
done
echo "runwire: needs Python 3.11 or newer, found none (tried ${PYTHON:-python3.13, python3.12, python3.11, python3}); name one: make PYTHON=/path/to/python" >&2
exit 1
