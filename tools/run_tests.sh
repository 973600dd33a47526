#!/usr/bin/env bash
# Run the tests: tools/run_tests.sh [--fast] [ARGUMENTS OF pytest]. With --fast, those that are
# marked neither slow nor multiprocess. Sets .venv up first if it is not there.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
chosen=()
if [[ ${1:-} == --fast ]]; then
    shift
    chosen=(-m "not slow and not multiprocess and not gpu and not whole")
fi
CDPATH= cd "$(dirname "$0")/.."
tools/setup_env.sh
source .venv${STACK:+-$STACK}/bin/activate
# Each process that a test starts would compile the package, a tenth of its start.
unset PYTHONDONTWRITEBYTECODE
echo "== Tests"
# Two processes: the long tests mostly wait. A file stays in one, with what its tests share.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "${chosen[@]}" "$@"
