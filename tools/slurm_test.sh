#!/usr/bin/env bash
# Evaluate under Slurm: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENTS OF test.py]
# Settings from the environment: GPUS (8 in total), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENTS OF test.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/slurm.sh" "$1" "$2" test.py "$3" "$4" "${@:5}"
