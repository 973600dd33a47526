#!/usr/bin/env bash
# Train under Slurm:
#   tools/slurm_train.sh [--requeue] PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]
# GPUS (8, in all), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are read from the environment.
# With --requeue it is submitted as a batch job that resumes from its newest checkpoint, and goes
# back into the queue when it was preempted or its time is over, which is told to it
# NOTICE_SECONDS (120) ahead.
set -euo pipefail
if [ "${1:-}" = --requeue ]; then
    export REQUEUE=1
    shift
    set -- "$@" --resume
fi
if [ $# -lt 4 ]; then
    echo "usage: $0 [--requeue] PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/slurm.sh" "$1" "$2" train.py "$3" --work-dir="$4" "${@:5}"
