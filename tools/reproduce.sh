#!/usr/bin/env bash
# Tune and train the small recipes of docs/results.md on 2 CPU cores. Sets up .venv first.
#
#   tools/reproduce.sh tune    tune LR and warmup of the six recipes by successive halving
#   tools/reproduce.sh final   train the six recipes in configs/shapes_small, and SGD at batch 128
#                              with the LR scaled linearly, with and without warmup, three seeds
#
# Each finished training is a row of docs/results/shapes_small_tune.csv or shapes_small.csv.
# Trainings with a row are skipped, so the same command continues from these files, on any machine.
# On Ctrl-C the running trainings save and exit. To run for a limited time:
#
#   timeout -s INT 110m bash tools/reproduce.sh tune
#
# Further arguments are options of tools/sweep.py. Settings from the environment: OUT, the work
# folder (work_dirs/shapes_small); RESULTS, the folder of the tables (docs/results); DATA, the data
# set (data/shapes_small, generated if missing); JOBS, trainings at a time (2); SEEDS, instead of
# 0, 1 and of 11, 12, 13; LRS and WARMUPS, other grids; RECIPES, some of the names that it prints
# after "==", such as "lamb_16 lamb_128"; PYTHON.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
CDPATH= cd "$(dirname "$0")/.."
stage=${1:-}
shift || true
python=${PYTHON:-.venv/bin/python}
out=${OUT:-work_dirs/shapes_small}/$stage
results=${RESULTS:-docs/results}

prepare() {
    [ -n "${PYTHON:-}" ] || tools/setup_env.sh
    [ -n "${DATA:-}" ] || "$python" tools/make_shapes.py --out data/shapes_small \
        --train 8192 --val 256 --size 64
}

sweep() { # NAME RECIPE TABLE ARGUMENTS
    local name=$1 config=configs/shapes_small/mask-rcnn_r18_fpn_$2_shapes.py table=$results/$3.csv
    shift 3
    [[ " ${RECIPES:-$name} " == *" $name "* ]] || return 0
    echo "== $stage: $name"
    "$python" tools/sweep.py "$config" --work-dir "$out/$name" --table "$table" \
        --jobs "${JOBS:-2}" "$@"
}

# Five LRs with three warmups: none, half an epoch and one epoch.
tune() { # OPTIMIZER BATCH LRS [OPTIONS OF sweep.py]
    local name=$1_$2 recipe=$(($2 / 16))xb16-$1-1x epoch=$((8192 / $2)) lrs=$3
    shift 3
    sweep "$name" "$recipe" shapes_small_tune --halving --seeds ${SEEDS:-0 1} \
        --lr $lrs --warmup-iters ${WARMUPS:-0 $((epoch / 2)) $epoch} "$@"
}

final() { # NAME RECIPE [OPTIONS OF sweep.py]
    local name=$1 recipe=$2
    shift 2
    sweep "$name" "$recipe" shapes_small --seeds ${SEEDS:-11 12 13} "$@"
}

case $stage in
    tune)
        prepare
        tune sgd 16 "${LRS:-0.005 0.01 0.02 0.04 0.08}" "$@"
        tune sgd 128 "${LRS:-0.01 0.02 0.04 0.08 0.16}" "$@"
        tune lars 16 "${LRS:-0.25 0.5 1.0 2.0 4.0}" "$@"
        tune lars 128 "${LRS:-0.5 1.0 2.0 4.0 8.0}" "$@"
        tune lamb 16 "${LRS:-0.0025 0.005 0.01 0.02 0.04}" "$@"
        tune lamb 128 "${LRS:-0.005 0.01 0.02 0.04 0.08}" "$@"
        ;;
    final)
        prepare
        for optimizer in sgd lars lamb; do
            final ${optimizer}_16 1xb16-$optimizer-1x "$@"
            final ${optimizer}_128 8xb16-$optimizer-1x "$@"
        done
        final sgd_128_scaled 8xb16-sgd-1x --lr 0.16 --warmup-iters 0 "$@"
        final sgd_128_scaled_warmup 8xb16-sgd-1x --lr 0.16 --warmup-iters ${WARMUPS:-64} "$@"
        ;;
    *)
        echo "usage: $0 tune|final [OPTIONS OF tools/sweep.py]" >&2
        exit 2
        ;;
esac
