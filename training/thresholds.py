"""Thresholds and minimum areas, chosen on validation images and part of the engine's version.

For each class, the search finds the pair with the best Dice of the competition on the validation
images. Of all pairs within `SLACK` of the best, it takes the one nearest to no post-processing,
which generalises better. Masks are compared at each image's own size, and minimum areas count the
engine's pixels, as in `score`. Shape suffixes: N images, C classes, T thresholds, H rows, W
columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.images.decode import mask_to_source
from steel_batch.masks.defects import is_at_least
from training.metrics import dice_of

PROBABILITIES: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
MIN_AREAS_PX: Final = (0, 25, 50, 100, 200, 300, 450, 600, 800, 1200)
SLACK: Final = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The choice for one class."""

    threshold: float
    """A probability; a pixel above it belongs to the class."""
    min_area_px: int
    """Images with fewer pixels of the class have none; in pixels of the engine's size."""
    kaggle_dice: float
    """Kaggle Dice of this class on the validation images."""


def search(
    outputs: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]], num_classes: int
) -> list[Choice]:
    """Choose threshold and minimum area of each class.

    Args:
        outputs: Per image, probabilities [C, H, W] at the engine's size and the true bitmask at
            the image's size; read once.
        num_classes: C.

    Raises:
        ValueError: There are no images.
    """
    rows, image_px, engine_px = [], [], 0
    for p_CHW, truth_HW in outputs:
        rows.append(
            np.stack([_areas(p_CHW[c], truth_HW & np.uint8(1 << c)) for c in range(num_classes)])
        )
        image_px.append(truth_HW.size)
        engine_px = p_CHW[0].size
    if not rows:
        raise ValueError("there are no images to search on")
    areas_NCT3, image_px_N = np.stack(rows), np.array(image_px, np.int64)
    return [_choose(areas_NCT3[:, c], image_px_N, engine_px) for c in range(num_classes)]


def _areas(
    probability_HW: npt.NDArray[np.float32], truth_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Return predicted, true and common pixels of the image at each threshold, [T, 3]."""
    passed_HW = np.zeros(probability_HW.shape, np.uint8)
    for p in PROBABILITIES:  # counts how many of them a pixel exceeds: they ascend
        passed_HW += probability_HW > p
    passed_HW = mask_to_source(passed_HW, *truth_HW.shape)
    inside = passed_HW[truth_HW.astype(bool)]
    predicted_T, common_T = (
        np.bincount(passed.ravel(), minlength=len(PROBABILITIES) + 1)[::-1].cumsum()[-2::-1]
        for passed in (passed_HW, inside)
    )
    return np.stack([predicted_T, np.full_like(predicted_T, inside.size), common_T], axis=1)


def _choose(
    areas_NT3: npt.NDArray[np.int64], image_px_N: npt.NDArray[np.int64], engine_px: int
) -> Choice:
    scored = []
    for min_area in MIN_AREAS_PX:
        is_kept_NT1 = is_at_least(
            areas_NT3[..., :1],
            np.array(min_area, np.int64),
            image_px_N[:, None, None],
            engine_px,
        )
        kept_NT3 = np.where(is_kept_NT1, areas_NT3, 0)
        kept_NT3[..., 1] = areas_NT3[..., 1]
        dice_T = dice_of(kept_NT3).mean(axis=0)
        for threshold, dice in zip(PROBABILITIES, dice_T.tolist(), strict=True):
            scored.append(Choice(threshold=threshold, min_area_px=min_area, kaggle_dice=dice))
    best = max(choice.kaggle_dice for choice in scored)
    good = [choice for choice in scored if choice.kaggle_dice >= best - SLACK]
    return min(good, key=lambda c: (abs(c.threshold - 0.5), c.min_area_px))
