"""How good masks are: every figure from one pass over streamed masks.

The competition's metric gives 1 where prediction and truth are both empty, so answering "nothing"
scores 0.86 on its data; beside it stand figures that cannot be had for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CALIBRATION_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """One class."""

    present_dice: float
    """Mean Dice over the images that have the class; 0 for one that was missed."""
    recall: float
    """Share of the images with the class on which some of it was found."""
    false_alarm_rate: float
    """Share of the images without the class on which some was predicted."""
    iou: float
    """Over all pixels of the dataset."""
    num_present: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A dataset."""

    kaggle_dice: float
    """Mean over images and classes; empty on empty is 1."""
    mean_iou: float
    """Mean over background and classes of the intersection over union of all pixels."""
    classes: tuple[ClassMetrics, ...]
    calibration: tuple[tuple[float, float, int], ...]
    """Per bin of `peak`: its mean, the share that has the class, and how many there are."""
    num_images: int


class MetricsBuilder:
    """Adds masks up, image by image.

    Args:
        num_classes: Bits of the bitmasks that count.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._rows: list[npt.NDArray[np.int64]] = []
        self._peaks: list[npt.NDArray[np.float32]] = []
        self._background = np.zeros(2, np.int64)

    def add(
        self,
        predicted_HW: npt.NDArray[np.uint8],
        truth_HW: npt.NDArray[np.uint8],
        peak_C: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Compare one image's bitmasks."""
        pairs = np.bincount(
            (predicted_HW.astype(np.uint16) << 8 | truth_HW).ravel(), minlength=1 << 16
        )
        values = np.flatnonzero(pairs)
        counts = pairs[values]
        predicted, truth = values >> 8, values & 0xFF
        rows = np.zeros((self._num_classes, 3), np.int64)
        for c in range(self._num_classes):
            p, t = predicted >> c & 1, truth >> c & 1
            rows[c] = counts @ np.stack([p, t, p & t], axis=1)
        self._rows.append(rows)
        empty_p, empty_t = predicted == 0, truth == 0
        self._background += (counts[empty_p & empty_t].sum(), counts[empty_p | empty_t].sum())
        if peak_C is not None:
            self._peaks.append(np.asarray(peak_C, np.float32))

    def build(self) -> Metrics:
        """The figures of everything that was added."""
        areas = np.stack(self._rows)  # [N, C, (predicted, truth, both)]
        return _figures(areas, np.stack(self._peaks) if self._peaks else None, self._background)


def dice_of(areas: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Dice of [..., (predicted, truth, both)] areas; 1 where both are empty."""
    total = areas[..., 0] + areas[..., 1]
    return np.where(total == 0, 1.0, 2 * areas[..., 2] / np.maximum(total, 1))


def _figures(
    areas: npt.NDArray[np.int64],
    peaks: npt.NDArray[np.float32] | None,
    background: npt.NDArray[np.int64],
) -> Metrics:
    dice = dice_of(areas)
    classes, ious = [], [float(background[0] / max(1, background[1]))]
    for c in range(areas.shape[1]):
        predicted, truth, both = areas[:, c].T
        present = truth > 0
        union = int(predicted.sum() + truth.sum() - both.sum())
        iou = float(both.sum() / union) if union else 1.0
        ious.append(iou)
        classes.append(
            ClassMetrics(
                present_dice=_mean(dice[present, c]),
                recall=_mean(both[present] > 0),
                false_alarm_rate=_mean(predicted[~present] > 0),
                iou=iou,
                num_present=int(present.sum()),
            )
        )
    return Metrics(
        kaggle_dice=float(dice.mean()),
        mean_iou=float(np.mean(ious)),
        classes=tuple(classes),
        calibration=() if peaks is None else _calibration(peaks, areas[..., 1] > 0),
        num_images=len(areas),
    )


def _calibration(
    peaks: npt.NDArray[np.float32], present: npt.NDArray[np.bool_]
) -> tuple[tuple[float, float, int], ...]:
    bins = np.minimum((peaks * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows: list[tuple[float, float, int]] = []
    for b in range(CALIBRATION_BINS):
        member = bins == b
        if member.any():
            rows.append((_mean(peaks[member]), _mean(present[member]), int(member.sum())))
    return tuple(rows)


def _mean(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
