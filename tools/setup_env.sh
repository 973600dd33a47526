#!/usr/bin/env bash
# Make .venv with all that requirements.txt pins and this package. Called by quickstart.sh and
# run_tests.sh. Once it is there, and nothing that it was made from changed, this takes no time.
# STACK=openmmlab takes requirements-openmmlab.txt and makes .venv-openmmlab, see test_openmmlab.sh.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
CDPATH= cd "$(dirname "$0")/.."
venv=.venv${STACK:+-$STACK}
requirements=requirements${STACK:+-$STACK}.txt
made_from=$(cat $requirements setup.py tools/setup_env.sh | sha256sum | cut -d ' ' -f 1)
if [ "$(cat $venv/made_from 2>/dev/null)" = "$made_from" ]; then
    echo "== $venv is there"
    exit 0
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: PYTHON=$python is $("$python" --version 2>&1): Python 3.10 or newer is needed." >&2
    exit 2
fi
echo "== Setting up $venv with $("$python" --version)"
"$python" -m venv $venv
pip() { $venv/bin/python -m pip --disable-pip-version-check "$@"; }

echo "== 1 of 3: torch and what mmcv is built with"
# A bare `torch` or another version may be a CUDA build of several gigabytes.
pip install --quiet $(grep -E '^(setuptools|wheel|ninja|psutil|torch)==' $requirements)

echo "== 2 of 3: the rest of $requirements. mmcv's ops are compiled: 7 to 14 minutes on 2 cores,"
echo "           seconds where pip has kept the wheel that an earlier set-up built"
MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} PATH="$PWD/$venv/bin:$PATH" \
    pip install --quiet --no-build-isolation -r $requirements

echo "== 3 of 3: this package"
pip install --quiet --no-build-isolation --no-deps -e .
$venv/bin/python -c 'import mmcv.ops, mmdet_largebatch' # mmcv.ops fails here if it has no ops.
echo "$made_from" >$venv/made_from
