#!/usr/bin/env bash
# Train under Slurm:
#   tools/slurm_train.sh [--requeue] PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]
# Settings from the environment: GPUS (8 in total), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS.
# With --requeue, submit a batch job that resumes from its newest checkpoint. The job goes back into
# the queue after a preemption, and at its time limit. It gets a signal NOTICE_SECONDS (120) before.
# With `--requeue ... --resume CHECKPOINT` its first start resumes from this checkpoint.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
if [ "${1:-}" = --requeue ]; then
    export REQUEUE=1
    shift
    [[ " $* " == *" --resume"[\ =]* ]] || set -- "$@" --resume
fi
if [ $# -lt 4 ]; then
    echo "usage: $0 [--requeue] PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/slurm.sh" "$1" "$2" train.py "$3" --work-dir="$4" "${@:5}"
