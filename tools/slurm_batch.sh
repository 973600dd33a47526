#!/usr/bin/env bash
# The batch job of `slurm_train.sh --requeue`: slurm_batch.sh COMMAND. Runs the command on every task.
# If the command exits with 75 (preempted), the job goes back into the queue.
set -uo pipefail
# The same name at each requeue, see mmdet_largebatch/checkpoints/first_start.py.
export LARGEBATCH_RUN="slurm-$SLURM_JOB_ID"
# A signal must not end this shell before srun.
trap : TERM USR1
# No rank is killed as the first one exits: srun would return that signal instead of 75.
srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="$SLURM_CPUS_PER_TASK" "$@"
status=$?
if [ "$status" -eq 75 ]; then
    echo "Preempted: job $SLURM_JOB_ID goes back into the queue."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
