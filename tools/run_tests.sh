#!/usr/bin/env bash
# Run the tests: tools/run_tests.sh [ARGUMENTS OF pytest]. Sets up .venv first.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup_env.sh
source .venv${STACK:+-$STACK}/bin/activate
echo "== Tests"
# Two processes: the long tests mostly wait. A file stays in one, with what its tests share.
exec python -m pytest -n 2 --dist loadfile "$@"
