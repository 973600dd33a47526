#!/usr/bin/env bash
# Called by dist_train.sh and dist_test.sh: launch.sh TOOL GPUS [ARGUMENTS], on torchrun.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tool=$1 gpus=$2
case $gpus in
    '' | *[!0-9]* | 0)
        echo "error: GPUS=$gpus: must be a number of processes on this machine, 1 or more." >&2
        exit 2
        ;;
esac
config=$3
if [ ! -f "$config" ]; then
    echo "error: config=$config: no such file." >&2
    exit 2
fi
# torchrun would say this itself, with a warning.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
status=0
python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$here/$tool" "${@:3}" --launcher pytorch || status=$?
if [ "$status" -ne 0 ]; then
    echo "$tool ended with status $status. A line that starts with 'error:' above says why." >&2
fi
exit "$status"
