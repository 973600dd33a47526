#!/usr/bin/env bash
# The trainings of docs/results.md, on two CPU cores:
#
#   tools/miniature.sh tune    LR and warmup of the six recipes, ten trainings each, seed 0
#   tools/miniature.sh final   the six recipes as they stand in configs/miniature, seeds 1, 2, 3
#   tools/miniature.sh more    SGD at batch 128 untuned in three ways, and LARS for 24 epochs
#
# What follows goes to tools/sweep.py. What is finished is not trained again. From the environment:
# OUT, the folder (work_dirs/miniature); DATA, the set (data/miniature, written if it is not there);
# JOBS, trainings at a time (2); SEEDS of `final` ("1 2 3"); PYTHON.
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
        sweep lars_24_epochs 8xb16-lars-1x --seeds ${SEEDS:-1 2 3} \
            --cfg-options train_cfg.max_epochs=24 default_hooks.lr.milestones="[16,22]" "$@"
        "$python" tools/results.py "$out"/sgd_*/*seed? "$out"/lars_*/seed? --group-seeds \
            --out "$out/results"
        ;;
    *)
        echo "usage: $0 tune|final|more [OPTIONS OF tools/sweep.py]" >&2
        exit 2
        ;;
esac
