#!/usr/bin/env bash
# The tests on OpenMMLab's own releases, in .venv-openmmlab, which is set up first:
#
#   tools/test_openmmlab.sh [--shapes [--epochs N]] [ARGUMENTS OF pytest]
#
# With --shapes the quickstart goes before them: LAMB on 2 processes, evaluated. For one of the
# other scripts there, set STACK: STACK=openmmlab tools/quickstart.sh --epochs 1
set -euo pipefail
cd "$(dirname "$0")/.."
export STACK=openmmlab
if [ "${1:-}" = --shapes ]; then
    shift
    epochs=()
    if [ "${1:-}" = --epochs ]; then
        epochs=("${@:1:2}")
        shift ${#epochs[@]}
    fi
    tools/quickstart.sh ${epochs[@]+"${epochs[@]}"}
fi
exec tools/run_tests.sh "$@"
