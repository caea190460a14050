"""What a recipe chooses from by name: here, so that checking one need not load PyTorch."""

from __future__ import annotations

from typing import Final

ARCHITECTURES: Final = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus",
    "PAN", "UPerNet", "Segformer", "DPT",
)  # fmt: skip
"""Of segmentation-models-pytorch: each is exported, held against PyTorch and compiled in tests."""
OWN_ENCODERS: Final = ("narrow16", "narrow32", "residual10")
"""Those of `training.encoders`."""
DEVICES: Final = ("auto", "cpu", "cuda")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")
FIGURES: Final = ("kaggle_dice", "mean_iou", "present_dice")
