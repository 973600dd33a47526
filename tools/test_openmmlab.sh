#!/usr/bin/env bash
# Run the tests on OpenMMLab's releases, in .venv-openmmlab. Sets up .venv-openmmlab first.
#
#   tools/test_openmmlab.sh [--shapes [--epochs N]] [ARGUMENTS OF pytest]
#
# With --shapes, run the quickstart before the tests: train with LAMB on 2 processes and evaluate.
# STACK=openmmlab runs another script on these releases: STACK=openmmlab tools/quickstart.sh --epochs 1
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
CDPATH= cd "$(dirname "$0")/.."
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
