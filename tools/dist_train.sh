#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py]
# GPUS is the number of processes on this machine. Without a GPU they run on the CPU.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT, and run this on each machine.
# Machines that come and go: set MAX_RESTARTS, RDZV_ENDPOINT and NNODES=4:8. See
# mmdet_largebatch/cli/torchrun.py.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [ARGUMENTS OF train.py]" >&2
    exit 2
fi
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
# For a clone that is not installed.
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
# `exec`: signals to this process must reach the launcher.
exec python "$here/launch.py" train.py "$@"
