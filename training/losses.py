"""The loss: binary cross-entropy and Dice per class, and optionally the Lovász hinge.

Logits may be coarser than masks; the target of a coarse pixel is its share of defect pixels.
Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional


def unpack_bits(bitmask_NHW: Tensor, num_classes: int) -> Tensor:
    """Unpack a bitmask to one plane of 0 and 1 per class, [N, C, H, W], float32."""
    bits = torch.arange(num_classes, dtype=torch.uint8, device=bitmask_NHW.device)
    return ((bitmask_NHW.unsqueeze(1) >> bits.view(1, -1, 1, 1)) & 1).float()


def pool_masks(mask_NCHW: Tensor, stride: int) -> Tensor:
    """Return the target of logits at a stride, with as many pixels as are needed for the image."""
    return functional.avg_pool2d(mask_NCHW, stride, ceil_mode=True) if stride > 1 else mask_NCHW


def bce_dice(logits_NCHW: Tensor, target_NCHW: Tensor, positive_weight_C: Tensor) -> Tensor:
    """Cross-entropy plus one minus the batch's mean Dice over the classes in it.

    Args:
        logits_NCHW: At any stride.
        target_NCHW: At the same stride; see `pool_masks`.
        positive_weight_C: Weight of a defect pixel, relative to a clean one.
    """
    weight = positive_weight_C.view(1, -1, 1, 1)
    bce = functional.binary_cross_entropy_with_logits(logits_NCHW, target_NCHW, pos_weight=weight)
    probability = torch.sigmoid(logits_NCHW)
    both = (probability * target_NCHW).sum((0, 2, 3))
    either = (probability + target_NCHW).sum((0, 2, 3))
    present = target_NCHW.amax((0, 2, 3)) > 0
    dice = (2 * both + 1) / (either + 1)
    dice_loss = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return bce + dice_loss


def distillation(logits_NCHW: Tensor, answer_NCHW: Tensor, temperature: float) -> Tensor:
    """Cross-entropy to a teacher's probabilities, both softened by a temperature.

    Multiplied by the temperature's square, so that gradients do not depend on the temperature.

    G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network, 2015.

    Args:
        logits_NCHW: At any stride.
        answer_NCHW: The teacher's probabilities at that temperature, at the same stride.
        temperature: Divides the logits.
    """
    softened = logits_NCHW / temperature
    entropy = functional.binary_cross_entropy_with_logits(softened, answer_NCHW)
    return entropy * temperature**2


def lovasz(logits_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """The Lovász hinge, a convex surrogate of IoU, averaged over the classes in the batch.

    M. Berman, A. Rannen Triki, M. Blaschko: The Lovász-Softmax loss, CVPR 2018.

    Args:
        logits_NCHW: At any stride.
        target_NCHW: At the same stride; a coarse pixel is defect if at least half of it is.
    """
    binary = smp.losses.LovaszLoss("binary", per_image=False)
    truth_NCHW = (target_NCHW >= 0.5).float()
    present = truth_NCHW.amax((0, 2, 3)) > 0
    losses: list[Tensor] = [
        binary(logits_NCHW[:, c], truth_NCHW[:, c]) for c in range(logits_NCHW.shape[1])
    ]
    return (torch.stack(losses) * present).sum() / present.sum().clamp(min=1)
