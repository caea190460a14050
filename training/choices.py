"""The named choices of a recipe; a module of its own, so that a check need not load PyTorch."""

from __future__ import annotations

from typing import Final

ARCHITECTURES: Final = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus",
    "PAN", "UPerNet", "Segformer", "DPT",
)  # fmt: skip
"""Architectures of segmentation-models-pytorch; tests export, verify and compile each of them."""
OWN_ENCODERS: Final = ("narrow16", "narrow32", "residual10")
"""The encoders of `training.encoders`."""
DEVICES: Final = ("auto", "cpu", "cuda")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")
FIGURES: Final = ("kaggle_dice", "mean_iou", "present_dice")
