#!/usr/bin/env bash
# From nothing to a trained detector: sets .venv up, writes the shapes, trains Mask R-CNN with LAMB
# on 2 processes, prints its COCO AP and draws what it finds. What is done already is not done again.
#
#   tools/quickstart.sh [--epochs N]     N: 12 as in the recipe, or fewer for a first look
set -euo pipefail
cd "$(dirname "$0")/.."
epochs=12
if [ "${1:-}" = --epochs ] && [ $# -eq 2 ]; then
    epochs=$2
elif [ $# -ne 0 ]; then
    echo "usage: $0 [--epochs N]" >&2
    exit 2
fi
case $epochs in
    [1-9] | 1[0-2]) ;;
    *)
        echo "error: --epochs $epochs: must be 1 to 12." >&2
        exit 2
        ;;
esac

config=configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py
work=work_dirs/quickstart${STACK:+-$STACK}
options=()
if [ "$epochs" -ne 12 ]; then
    work=${work}_$epochs
    # Decays that a shorter run still reaches: 8 and 11 of 12 epochs.
    options=(--cfg-options train_cfg.max_epochs="$epochs" default_hooks.lr.milestones="[]")
fi

tools/setup_env.sh
source .venv${STACK:+-$STACK}/bin/activate

echo "== Shapes"
python tools/make_shapes.py

if [ -f "$work/epoch_$epochs.pth" ]; then
    echo "== Training is done: $work/epoch_$epochs.pth"
else
    echo "== Training with LAMB, $epochs epochs on 2 processes"
    tools/dist_train.sh $config 2 --work-dir "$work" --resume ${options[@]+"${options[@]}"}
fi

echo "== Evaluation"
python tools/test.py $config "$work/epoch_$epochs.pth" --work-dir "$work/test" | tee "$work/test.txt"
python tools/draw_detections.py $config "$work/epoch_$epochs.pth" --out "$work/detections.png"
echo "== box AP  $(grep -o 'coco/bbox_mAP: [0-9.]*' "$work/test.txt" | cut -d ' ' -f 2)"
echo "== mask AP $(grep -o 'coco/segm_mAP: [0-9.]*' "$work/test.txt" | cut -d ' ' -f 2)"
echo "== picture $work/detections.png"
