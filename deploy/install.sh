#!/bin/sh
# Makes .venv from requirements.lock: pip alone is enough, uv is used when it is there. Every file is checked by its hash.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit("Triptych needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
echo "installing into .venv, by hash; with pip and an empty cache this takes a few minutes, later runs skip it"
if command -v uv >/dev/null 2>&1; then
    VIRTUAL_ENV="$PWD/.venv" uv pip install --quiet --require-hashes -r requirements.lock
    VIRTUAL_ENV="$PWD/.venv" uv pip install --quiet --no-deps --no-build-isolation -e .
else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
fi
touch .venv/.ready
