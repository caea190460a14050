"""The loss: binary cross-entropy and Dice, class by class.

Logits may be coarser than masks; the target of a coarse pixel is the share of it that is defect.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def unpack_bits(bitmask_NHW: Tensor, num_classes: int) -> Tensor:
    """A bitmask as one plane of 0 and 1 per class, [N, C, H, W], float32."""
    bits = torch.arange(num_classes, device=bitmask_NHW.device).view(1, -1, 1, 1)
    return ((bitmask_NHW.unsqueeze(1).int() >> bits) & 1).float()


def bce_dice(logits_NCHW: Tensor, target_NCHW: Tensor, positive_weight_C: Tensor) -> Tensor:
    """Cross-entropy plus one minus the batch's mean Dice over classes that occur in it.

    Args:
        logits_NCHW: At any stride.
        target_NCHW: Masks at full resolution.
        positive_weight_C: What a defect pixel weighs against a clean one.
    """
    stride = target_NCHW.shape[-1] // logits_NCHW.shape[-1]
    if stride > 1:
        target_NCHW = functional.avg_pool2d(target_NCHW, stride)
    weight = positive_weight_C.view(1, -1, 1, 1)
    bce = functional.binary_cross_entropy_with_logits(logits_NCHW, target_NCHW, pos_weight=weight)
    probability = torch.sigmoid(logits_NCHW)
    both = (probability * target_NCHW).sum((0, 2, 3))
    either = (probability + target_NCHW).sum((0, 2, 3))
    present = target_NCHW.amax((0, 2, 3)) > 0
    dice = (2 * both + 1) / (either + 1)
    dice_loss = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return bce + dice_loss
