#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py]
# GPUS counts the processes on this machine; where there is no GPU they run on its CPU.
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, the same command on each.
# Machines that may be taken away: MAX_RESTARTS, RDZV_ENDPOINT, NNODES=4:8. See
# mmdet_largebatch/cli/torchrun.py.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [ARGUMENTS OF train.py]" >&2
    exit 2
fi
# Replaced by the launcher, so that signals reach it.
here=$(cd "$(dirname "$0")" && pwd)
# A clone need not be installed.
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec python "$here/launch.py" train.py "$@"
