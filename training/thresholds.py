"""Thresholds and minimum areas: searched on validation, part of the engine's version.

For each class, the pair that gives the best Dice of the competition over the validation images; of
pairs within `SLACK` of the best, the one nearest to no post-processing, which generalises better.
Shape suffixes: N images, C classes, T thresholds, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.metrics import dice_of

PROBABILITIES: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
MIN_AREAS_PX: Final = (0, 25, 50, 100, 200, 300, 450, 600, 800, 1200)
SLACK: Final = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was found for one class."""

    threshold: float
    """A probability; a pixel above it belongs to the class."""
    min_area_px: int
    """An image with fewer pixels of the class has none."""
    kaggle_dice: float
    """Of this class on the images that were searched."""


def search(
    outputs: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]], num_classes: int
) -> list[Choice]:
    """Choose per class.

    Args:
        outputs: Per image, probabilities [C, H, W] and the true bitmask [H, W]; read once.
        num_classes: C.

    Raises:
        ValueError: There is no image.
    """
    rows = [
        np.stack([_areas(p_CHW[c], truth_HW & np.uint8(1 << c)) for c in range(num_classes)])
        for p_CHW, truth_HW in outputs
    ]
    if not rows:
        raise ValueError("there is no image to search on")
    areas_NCT3 = np.stack(rows)
    return [_choose(areas_NCT3[:, c]) for c in range(num_classes)]


def _areas(
    probability_HW: npt.NDArray[np.float32], truth_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Predicted, true and common pixels at each threshold, [T, 3]."""
    truth = truth_HW.astype(bool)
    inside = probability_HW[truth]
    rows = [
        (np.count_nonzero(probability_HW > p), inside.size, np.count_nonzero(inside > p))
        for p in PROBABILITIES
    ]
    return np.array(rows, np.int64)


def _choose(areas_NT3: npt.NDArray[np.int64]) -> Choice:
    scored = []
    for min_area in MIN_AREAS_PX:
        kept_NT3 = np.where(areas_NT3[..., :1] >= min_area, areas_NT3, 0)
        kept_NT3[..., 1] = areas_NT3[..., 1]
        dice_T = dice_of(kept_NT3).mean(axis=0)
        for threshold, dice in zip(PROBABILITIES, dice_T.tolist(), strict=True):
            scored.append(Choice(threshold=threshold, min_area_px=min_area, kaggle_dice=dice))
    best = max(choice.kaggle_dice for choice in scored)
    good = [choice for choice in scored if choice.kaggle_dice >= best - SLACK]
    return min(good, key=lambda c: (abs(c.threshold - 0.5), c.min_area_px))
