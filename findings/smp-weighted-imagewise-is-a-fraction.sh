#!/usr/bin/env bash
# segmentation-models-pytorch: "weighted-imagewise" scores of perfect masks are 1 / classes.
#
# All metrics of smp.metrics share the reduction. "weighted" normalizes the class weights to a sum
# of 1 and adds up the weighted scores. "weighted-imagewise" normalizes them too and then takes the
# mean over the classes: it divides twice. With four classes a perfect prediction has an IoU of
# 0.25, where the documentation names a weighted average. "macro" does the same if it is given
# weights. Multiply by the number of classes.
#
# Seen on 2026-11-30 with segmentation-models-pytorch 0.6.0, torch 2.15.0, Python 3.11; IoU of four
# classes where the prediction is the truth, weights 1, 2, 3, 4:
#   macro 1.0, weighted 1.0, macro-imagewise 1.0, weighted-imagewise 0.25, macro with weights 0.25
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  segmentation-models-pytorch==0.6.0 torch==2.15.0
cat > "$folder/show.py" <<'PY'
import sys

import segmentation_models_pytorch as smp
import torch

truth = (torch.arange(3 * 4 * 8 * 8).reshape(3, 4, 8, 8) % 5 == 0).long()
areas = smp.metrics.get_stats(truth, truth, mode="multilabel")
WEIGHTS = [1.0, 2.0, 3.0, 4.0]
found = {}
for name, reduction, weights in (
    ("macro", "macro", None),
    ("weighted", "weighted", WEIGHTS),
    ("macro-imagewise", "macro-imagewise", None),
    ("weighted-imagewise", "weighted-imagewise", WEIGHTS),
    ("macro with weights", "macro", WEIGHTS),
):
    score = smp.metrics.iou_score(*areas, reduction=reduction, class_weights=weights)
    found[name] = round(score.item(), 3)
print(", ".join(f"{name} {score}" for name, score in found.items()))
sys.exit(list(found.values()) != [1.0, 1.0, 1.0, 0.25, 0.25])
PY
"$folder/venv/bin/python" "$folder/show.py"
