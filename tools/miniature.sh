#!/usr/bin/env bash
# The trainings of docs/results.md, on two CPU cores:
#
#   tools/miniature.sh tune    LR and warmup of the six recipes, ten trainings each, seed 0
#   tools/miniature.sh final   the six recipes as they stand in configs/miniature, seeds 1, 2, 3
#   tools/miniature.sh more    at batch 128: SGD untuned in three ways, LARS for 24 epochs, and all
#                              three optimizers for 48, seed 1
#
# What follows goes to tools/sweep.py (--cfg-options not in the longer trainings of `more`, which have
# their own). What is finished is not trained again. From the environment: OUT, the folder
# (work_dirs/miniature); DATA, the set (data/miniature, written if it is not there); JOBS, trainings
# at a time (2); SEEDS of `final` and `more` ("1 2 3"); PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:-}
shift || true
python=${PYTHON:-.venv/bin/python}
out=${OUT:-work_dirs/miniature}/$stage

sweep() { # NAME CONFIG ARGUMENTS
    local name=$1 config=configs/miniature/mask-rcnn_r18_fpn_$2_shapes.py
    shift 2
    echo "== $stage: $name"
    "$python" tools/sweep.py "$config" --work-dir "$out/$name" --jobs "${JOBS:-2}" "$@"
}

tune() { # OPTIMIZER LRS-AT-16 LRS-AT-128, and what goes to sweep.py
    local optimizer=$1 small=$2 large=$3
    shift 3
    sweep "${optimizer}_16" "1xb16-$optimizer-1x" --lr $small --warmup-iters 64 192 --seeds 0 "$@"
    sweep "${optimizer}_128" "8xb16-$optimizer-1x" --lr $large --warmup-iters 8 24 --seeds 0 "$@"
}

longer() { # OPTIMIZER EPOCHS MILESTONES SEEDS, and what goes to sweep.py
    local optimizer=$1 epochs=$2 milestones=$3 seeds=$4
    shift 4
    sweep "${optimizer}_${epochs}_epochs" "8xb16-$optimizer-1x" --seeds $seeds "$@" --cfg-options \
        train_cfg.max_epochs=$epochs train_cfg.val_interval=$((epochs / 6)) \
        default_hooks.lr.milestones=$milestones
}

[ -n "${DATA:-}" ] || "$python" tools/make_shapes.py --out data/miniature --train 1024
case $stage in
    tune)
        tune sgd "0.005 0.01 0.02 0.04 0.08" "0.01 0.02 0.04 0.08 0.16" "$@"
        tune lars "0.5 1.0 2.0 4.0 8.0" "0.5 1.0 2.0 4.0 8.0" "$@"
        tune lamb "0.0025 0.005 0.01 0.02 0.04" "0.005 0.01 0.02 0.04 0.08" "$@"
        ;;
    final)
        for optimizer in sgd lars lamb; do
            for shape in 1xb16 8xb16; do
                sweep "${optimizer}_$((${shape%xb16} * 16))" "$shape-$optimizer-1x" \
                    --seeds ${SEEDS:-1 2 3} "$@"
            done
        done
        "$python" tools/results.py "$out"/*_16/seed? "$out"/*_128/seed? --group-seeds \
            --out "$out/results"
        ;;
    more)
        large=8xb16-sgd-1x
        sweep sgd_same_lr $large --lr 0.02 --warmup-iters 0 --seeds ${SEEDS:-1 2 3} "$@"
        sweep sgd_scaled $large --lr 0.16 --warmup-iters 0 --seeds ${SEEDS:-1 2 3} "$@"
        sweep sgd_scaled_warmup $large --lr 0.16 --warmup-iters 24 --seeds ${SEEDS:-1 2 3} "$@"
        longer lars 24 "[16,22]" "${SEEDS:-1 2 3}" "$@"
        for optimizer in sgd lars lamb; do
            longer $optimizer 48 "[32,44]" 1 "$@"
        done
        "$python" tools/results.py "$out"/*/*seed? --group-seeds --out "$out/results"
        ;;
    *)
        echo "usage: $0 tune|final|more [OPTIONS OF tools/sweep.py]" >&2
        exit 2
        ;;
esac
