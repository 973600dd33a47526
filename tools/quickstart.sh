#!/usr/bin/env bash
# From nothing to a trained detector: set up .venv, generate the shapes, train Mask R-CNN with LAMB on
# 2 processes, print the COCO AP and draw detections. Finished steps are skipped.
#
#   tools/quickstart.sh [--epochs N]     N: 12 as in the recipe, or fewer for a first look
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
CDPATH= cd "$(dirname "$0")/.."
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
    # The milestones, epochs 8 and 11, may lie beyond a shorter run.
    options=(--cfg-options train_cfg.max_epochs="$epochs" default_hooks.lr.milestones="[]")
fi

tools/setup_env.sh
source .venv${STACK:+-$STACK}/bin/activate

mkdir -p "$work"
log=$work/quickstart.log
fail() {
    tail -n 20 "$log" >&2
    echo "error: $1 failed; the whole log is $log" >&2
    exit 1
}
# Run a command with its output in the log. If the command fails, print the end of the log.
logged() { "$@" >>"$log" 2>&1 || fail "$*"; }

echo "== Shapes"
python tools/make_shapes.py

if [ -f "$work/epoch_$epochs.pth" ]; then
    echo "== Training is done: $work/epoch_$epochs.pth"
else
    echo "== Training with LAMB, $epochs epochs on 2 processes. The whole log: $log"
    tools/dist_train.sh $config 2 --work-dir "$work" --resume ${options[@]+"${options[@]}"} 2>&1 |
        python tools/epoch_lines.py "$log" || fail 'the training'
fi

echo "== Evaluation"
logged python tools/test.py $config "$work/epoch_$epochs.pth" --work-dir "$work/test"
logged python tools/draw_detections.py $config "$work/epoch_$epochs.pth" --out "$work/detections.png"
python tools/expected_ap.py "$log" docs/results/shapes.csv "$epochs"
echo "== picture $work/detections.png"
