"""What a recipe chooses from by name: here, so that `train -h` need not load PyTorch."""

from __future__ import annotations

from typing import Final

DEVICES: Final = ("auto", "cpu", "cuda")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")
FIGURES: Final = ("kaggle_dice", "mean_iou", "present_dice")
