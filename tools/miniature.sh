#!/usr/bin/env bash
# Run the trainings of docs/results.md on 2 CPU cores. Sets up .venv first.
#
#   tools/miniature.sh tune    tune LR and warmup of the six recipes, thirteen trainings each
#   tools/miniature.sh final   train the six recipes in configs/miniature, seeds 1, 2, 3
#   tools/miniature.sh more    at batch 128: SGD untuned in three ways, seeds 1, 2, 3; all three
#                              optimizers for 24 and for 48 epochs, seed 1
#
# Further arguments are options of tools/sweep.py. The longer trainings of `more` ignore
# --cfg-options. Finished trainings are skipped. Settings from the environment: OUT, the folder
# (work_dirs/miniature); DATA, the data set (data/miniature, generated if missing); JOBS, trainings
# at a time (2); SEEDS, instead of 1, 2, 3 and of 1; PYTHON.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
CDPATH= cd "$(dirname "$0")/.."
stage=${1:-}
shift || true
python=${PYTHON:-.venv/bin/python}
out=${OUT:-work_dirs/miniature}/$stage

prepare() {
    [ -n "${PYTHON:-}" ] || tools/setup_env.sh
    [ -n "${DATA:-}" ] || "$python" tools/make_shapes.py --out data/miniature --train 1024
}

sweep() { # NAME CONFIG ARGUMENTS
    local name=$1 config=configs/miniature/mask-rcnn_r18_fpn_$2_miniature.py
    shift 2
    echo "== $stage: $name"
    "$python" tools/sweep.py "$config" --work-dir "$out/$name" --jobs "${JOBS:-2}" "$@"
}

# Round 1: all LRs and warmups with seed 0. Round 2: the three best LRs at the best warmup, seed 10.
tune() { # OPTIMIZER MICRO-BATCHES LRS WARMUPS LRS-AGAIN WARMUP-AGAIN [OPTIONS OF sweep.py]
    local name=$1_$(($2 * 16)) config=$2xb16-$1-1x lrs=$3 warmups=$4 lrs_again=$5 warmup_again=$6
    shift 6
    sweep $name $config --lr $lrs --warmup-iters $warmups --seeds 0 "$@"
    sweep $name $config --lr $lrs_again --warmup-iters $warmup_again --seeds 10 "$@"
    "$python" tools/results.py "$out/$name"/*_seed0 "$out/$name"/*_seed10 --out "$out/$name/results"
}

case $stage in
    tune)
        prepare
        tune sgd 1 "0.005 0.01 0.02 0.04 0.08" "64 192" "0.02 0.04 0.08" 192 "$@"
        tune sgd 8 "0.01 0.02 0.04 0.08 0.16" "8 24" "0.01 0.02 0.04" 24 "$@"
        tune lars 1 "0.5 1.0 2.0 4.0 8.0" "64 192" "1.0 2.0 4.0" 64 "$@"
        tune lars 8 "0.5 1.0 2.0 4.0 8.0" "8 24" "0.5 1.0 2.0" 8 "$@"
        tune lamb 1 "0.0025 0.005 0.01 0.02 0.04" "64 192" "0.005 0.01 0.02" 192 "$@"
        tune lamb 8 "0.005 0.01 0.02 0.04 0.08" "8 24" "0.005 0.01 0.02" 8 "$@"
        ;;
    final)
        prepare
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
        prepare
        large=8xb16-sgd-1x
        sweep sgd_same_lr $large --lr 0.02 --warmup-iters 0 --seeds ${SEEDS:-1 2 3} "$@"
        sweep sgd_scaled $large --lr 0.16 --warmup-iters 0 --seeds ${SEEDS:-1 2 3} "$@"
        sweep sgd_scaled_warmup $large --lr 0.16 --warmup-iters 24 --seeds ${SEEDS:-1 2 3} "$@"
        for times in 2 4; do
            for optimizer in sgd lars lamb; do
                sweep ${optimizer}_$((12 * times))_epochs 8xb16-$optimizer-1x --seeds ${SEEDS:-1} "$@" \
                    --cfg-options train_cfg.max_epochs=$((12 * times)) \
                    train_cfg.val_interval=$((2 * times)) \
                    default_hooks.lr.milestones=[$((8 * times)),$((11 * times))]
            done
        done
        "$python" tools/results.py "$out"/*/*seed? --group-seeds --out "$out/results"
        ;;
    *)
        echo "usage: $0 tune|final|more [OPTIONS OF tools/sweep.py]" >&2
        exit 2
        ;;
esac
