#!/bin/sh
# Build the sdist, the wheel from the sdist, and try the wheel in a new environment with the base
# requirements alone: what `pip install runwire` gives to a trainer.
set -eu
cd "$(dirname "$0")/.."
uv=$(tools/find-uv.sh)
repository=$PWD
packages="runwire_schemas runwire runwire_consumer runwire_cli"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# The wheel comes from the unpacked sdist: what the sdist lacks would be left out of the wheel silently.
rm -rf dist
.venv/bin/python -m hatchling build --target sdist >/dev/null 2>&1 ||
    { echo "the sdist does not build: .venv/bin/python -m hatchling build" >&2; exit 1; }
tar -xzf dist/*.tar.gz -C "$work"
(cd "$work"/runwire-* && "$repository/.venv/bin/python" -m hatchling build --target wheel --directory "$repository/dist") \
    >/dev/null 2>&1 || { echo "the sdist makes no wheel" >&2; exit 1; }

"$uv" venv --quiet --no-python-downloads --python "$repository/.venv/bin/python" "$work/venv"
"$uv" pip install --quiet --python "$work/venv/bin/python" --require-hashes --requirement requirements/base.txt
"$uv" pip install --quiet --python "$work/venv/bin/python" --no-deps dist/*.whl

# Away from the clone, or its folders would be imported instead of the wheel.
cd "$work"
unset PYTHONPATH
RUNWIRE_PACKAGES=$packages RUNWIRE_REPOSITORY=$repository venv/bin/python - <<'PYTHON'
"""Look at the installed wheel from inside its environment."""

import importlib
import importlib.metadata
import os
import pathlib
import sys

environment = pathlib.Path(sys.prefix).resolve()
repository = pathlib.Path(os.environ["RUNWIRE_REPOSITORY"])
names = {distribution.name for distribution in importlib.metadata.distributions()}
if len(names) > 12:
    sys.exit(f"the base install has {len(names)} packages, 12 are allowed: {', '.join(sorted(names))}")

for package in os.environ["RUNWIRE_PACKAGES"].split():
    module = importlib.import_module(package)
    folder = pathlib.Path(module.__file__ or "").resolve().parent
    if not folder.is_relative_to(environment):
        sys.exit(f"{package} comes from {folder}, not from the wheel")
    (source,) = [found for found in repository.glob(f"*/{package}") if (found / "py.typed").exists()]
    wanted = {
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    missing = sorted(str(path) for path in wanted if not (folder / path).is_file())
    if missing:
        sys.exit(f"the wheel lacks files of {package}: {', '.join(missing)}")

schemas = list((environment / "lib").rglob("runwire_schemas/avro/*.avsc"))
if not schemas:
    sys.exit("the wheel holds no Avro schemas")
print(f"wheel: 4 packages, {len(schemas)} schemas, {len(names)} distributions in the base install")
PYTHON

RUNWIRE_HOME=$work/home
export RUNWIRE_HOME
venv/bin/runwire --help >/dev/null || { echo "the bare install does not answer runwire --help" >&2; exit 1; }
venv/bin/runwire sync --help >/dev/null || { echo "the bare install does not answer runwire sync --help" >&2; exit 1; }
if venv/bin/runwire runs >runs.txt 2>&1; then echo "runwire runs succeeds on the bare install" >&2; exit 1; fi
grep -q 'runwire\[local\]' runs.txt ||
    { echo "runwire runs does not name the extra to install, it says:" >&2; cat runs.txt >&2; exit 1; }
echo "wheel: --help and sync answer bare, other commands name the extra"
