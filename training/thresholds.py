"""Thresholds and minimum areas: searched on validation, part of the engine's version.

For each class, the pair that gives the best Dice of the competition over the validation images; of
pairs within `SLACK` of the best, the one nearest to no post-processing, which generalises better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.metrics import dice_of

PROBABILITIES: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
MIN_AREAS_PX: Final = (0, 50, 100, 200, 300, 450, 600, 800)
SLACK: Final = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was found for one class."""

    threshold: float
    min_area_px: int
    kaggle_dice: float


def search(
    outputs: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]], num_classes: int
) -> list[Choice]:
    """Choose per class.

    Args:
        outputs: Per image, probabilities [C, H, W] and the true bitmask [H, W]; read once.
        num_classes: C.
    """
    rows = [
        np.stack(
            [_areas(p_CHW[c], truth_HW >> np.uint8(c) & np.uint8(1)) for c in range(num_classes)]
        )
        for p_CHW, truth_HW in outputs
    ]
    areas = np.stack(rows)  # [N, C, T, (predicted, truth, both)]
    return [_choose(areas[:, c]) for c in range(num_classes)]


def _areas(
    probability_HW: npt.NDArray[np.float32], truth_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    levels = np.digitize(probability_HW.ravel(), PROBABILITIES)
    num = len(PROBABILITIES) + 1
    histogram = np.bincount(levels + num * truth_HW.ravel(), minlength=2 * num).reshape(2, num)
    above = histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # pixels at or over each threshold
    truth = np.full(num - 1, histogram[1].sum())
    return np.stack([above.sum(axis=0), truth, above[1]], axis=1)


def _choose(areas_NT3: npt.NDArray[np.int64]) -> Choice:
    scored = []
    for min_area in MIN_AREAS_PX:
        kept = np.where((areas_NT3[..., :1] >= min_area), areas_NT3, 0)
        kept[..., 1] = areas_NT3[..., 1]
        dice_T = dice_of(kept).mean(axis=0)
        for threshold, dice in zip(PROBABILITIES, dice_T.tolist(), strict=True):
            scored.append(Choice(threshold=threshold, min_area_px=min_area, kaggle_dice=dice))
    best = max(choice.kaggle_dice for choice in scored)
    good = [choice for choice in scored if choice.kaggle_dice >= best - SLACK]
    return min(good, key=lambda c: (abs(c.threshold - 0.5), c.min_area_px))
