#!/usr/bin/env bash
# Run a tool under srun: slurm.sh PARTITION JOB_NAME TOOL [ARGUMENTS]. slurm_train.sh and slurm_test.sh
# call this. With REQUEUE=1 submit a batch job instead, see slurm_train.sh.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
read -ra extra <<<"${SRUN_ARGS:-}"
options=(
    -p "$1"
    --job-name="$2"
    --gres="gpu:${GPUS_PER_NODE:-8}"
    --ntasks="${GPUS:-8}"
    --ntasks-per-node="${GPUS_PER_NODE:-8}"
    --cpus-per-task="${CPUS_PER_TASK:-5}"
)
tool=(python -u "$here/$3" "${@:4}" --launcher slurm)
if [ -n "${REQUEUE:-}" ]; then
    exec sbatch "${options[@]}" --requeue --open-mode=append \
        --signal="USR1@${NOTICE_SECONDS:-120}" "${extra[@]}" "$here/slurm_batch.sh" "${tool[@]}"
fi
# As in slurm_batch.sh: the exit status is the one of the ranks.
exec srun "${options[@]}" --kill-on-bad-exit=0 --wait=120 "${extra[@]}" "${tool[@]}"
