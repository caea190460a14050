#!/usr/bin/env bash
# segmentation-models-pytorch: DiceLoss is 0 for a class that no image of the batch has.
#
# DiceLoss, JaccardLoss and TverskyLoss multiply each class's loss by whether the batch has a pixel
# of it, and then take the mean of all classes. A network that marks the whole of clean images as
# defects has the loss 0, the same as one that marks nothing, and no gradient. With rare defects,
# where few batches hold a class, false alarms of it cost nothing in most steps; and a batch that
# has one class of four costs 0.25 at most. Add a loss that sees each pixel.
#
# Seen on 2026-11-30 with segmentation-models-pytorch 0.6.0, torch 2.15.0, Python 3.11; 2 images,
# 4 classes, each pixel marked as all four, of which the truth has none, one or three; the gradient
# is that of the first:
#                           none    one  three  gradient
#   DiceLoss               0.000  0.000  0.000  none
#   JaccardLoss            0.000  0.000  0.000  none
#   TverskyLoss            0.000  0.000  0.000  none
#   FocalLoss              7.995  5.996  1.999  some
#   SoftBCEWithLogitsLoss  8.000  6.000  2.000  some
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

LOSSES = {
    name: getattr(smp.losses, name)(mode="multilabel")
    for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss")
}
LOSSES["SoftBCEWithLogitsLoss"] = smp.losses.SoftBCEWithLogitsLoss()
truths = {"none": torch.zeros(2, 4, 8, 8)}
truths["one"] = truths["none"].clone()
truths["one"][:, 0] = 1
truths["three"] = 1 - truths["one"]
print(" " * 21, *(f"{name:>6}" for name in truths), " gradient")
found = {}
for name, loss in LOSSES.items():
    logits = torch.full((2, 4, 8, 8), 8.0, requires_grad=True)
    values = [loss(logits, truth) for truth in truths.values()]
    values[0].backward()
    gradient = "some" if logits.grad.abs().max() > 0 else "none"
    found[name] = [round(value.item(), 2) for value in values], gradient
    print(f"{name:21}", *(f"{value.item():6.3f}" for value in values), "", gradient)
blind, sees = ([0.0, 0.0, 0.0], "none"), ([8.0, 6.0, 2.0], "some")
sys.exit(list(found.values()) != [blind, blind, blind, ([7.99, 6.0, 2.0], "some"), sees])
PY
"$folder/venv/bin/python" "$folder/show.py"
