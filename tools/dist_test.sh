#!/usr/bin/env bash
# Evaluate on several processes: tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT as for dist_train.sh.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]" >&2
    exit 2
fi
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
# For a clone that is not installed.
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec python "$here/launch.py" test.py "$1" "$3" "$2" "${@:4}"
