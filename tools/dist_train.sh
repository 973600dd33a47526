#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py]
# GPUS counts the processes on this machine; where there is no GPU they run on its CPU.
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, the same command on each.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [ARGUMENTS OF train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/launch.sh" train.py "$2" "$1" "${@:3}"
