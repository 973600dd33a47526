#!/usr/bin/env bash
# Run the tests: tools/run_tests.sh [ARGUMENTS OF pytest]. Sets .venv up first if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup_env.sh
source .venv/bin/activate
echo "== Tests"
exec python -m pytest "$@"
