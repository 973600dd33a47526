#!/usr/bin/env bash
# Called by slurm_train.sh and slurm_test.sh: slurm.sh PARTITION JOB_NAME TOOL [ARGUMENTS], on srun.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
read -ra extra <<<"${SRUN_ARGS:-}"
exec srun -p "$1" \
    --job-name="$2" \
    --gres="gpu:${GPUS_PER_NODE:-8}" \
    --ntasks="${GPUS:-8}" \
    --ntasks-per-node="${GPUS_PER_NODE:-8}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    "${extra[@]}" \
    python -u "$here/$3" "${@:4}" --launcher slurm
