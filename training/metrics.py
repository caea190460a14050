"""Quality of masks: every figure from one pass over streamed masks.

The competition's metric is 1 if prediction and truth are both empty, so predicting nothing scores
0.88 on 10,758 of its images. The other figures cannot be gained by predicting nothing. A figure
without cases, such as the recall of a class that does not occur, is None.

Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CALIBRATION_BINS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One image: its prediction and its truth."""

    predicted_HW: npt.NDArray[np.uint8]
    """A bitmask, like the truth: bit c of a pixel is class c+1."""
    truth_HW: npt.NDArray[np.uint8]
    peak_C: npt.NDArray[np.float32] | None = None
    """Highest probability per class; None for no calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """The figures of one class."""

    present_dice: float | None
    """Mean Dice over the images that have the class; 0 if it was missed."""
    recall: float | None
    """Share of the images with the class on which at least one of its pixels was found."""
    false_alarm_rate: float | None
    """Share of the images without the class on which it was predicted."""
    iou: float | None
    """Intersection over union of all pixels of the dataset."""
    num_present: int
    """Number of images with the class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One of ten bins of peaks, over images and classes."""

    mean_peak: float
    share_present: float
    """Share of them that have the class; close to `mean_peak` for a calibrated engine."""
    num_cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The figures of a dataset."""

    num_images: int
    kaggle_dice: float
    """Mean over images and classes; 1 if prediction and truth are both empty."""
    mean_iou: float
    """Mean over background and the classes that occur, each over all pixels of the dataset."""
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Pixels by truth (row) and prediction (column); the first of each is background. A pixel of
    several classes counts once per pair."""
    calibration: tuple[Calibration, ...]


def evaluate(judged: Iterable[Judged], num_classes: int) -> Metrics:
    """Compute every figure in one pass.

    Args:
        judged: Images and their truth, of any sizes; streamed.
        num_classes: Number of classes in the bitmasks, 1 to 8.

    Raises:
        ValueError: There are no images, or a prediction and its truth differ in size.
    """
    areas, peaks, pairs = [], [], np.zeros((256, 256), np.int64)
    for image in judged:
        if image.predicted_HW.shape != image.truth_HW.shape:
            raise ValueError(
                f"prediction of {image.predicted_HW.shape} against {image.truth_HW.shape}"
            )
        counts = count_pairs(image.truth_HW, image.predicted_HW)
        pairs += counts
        areas.append(areas_of(counts, num_classes))
        if image.peak_C is not None:
            peaks.append(np.asarray(image.peak_C, np.float32))
    if not areas:
        raise ValueError("there are no images to evaluate")
    areas_NC3 = np.stack(areas)
    confusion = _confusion(pairs, num_classes)
    ious = [_iou(int(confusion[0, 0]), int(pairs[0].sum()), int(pairs[:, 0].sum()))]
    totals_C3 = areas_NC3.sum(axis=0)
    ious += [_iou(int(both), int(t), int(p)) for p, t, both in totals_C3]
    return Metrics(
        num_images=len(areas),
        kaggle_dice=float(dice_of(areas_NC3).mean()),
        mean_iou=float(np.mean([iou for iou in ious if iou is not None])),
        classes=tuple(
            _class_metrics(areas_NC3[:, c], iou) for c, iou in enumerate(ious[1:])
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        calibration=_calibrate(np.stack(peaks), areas_NC3[..., 1] > 0)
        if len(peaks) == len(areas)
        else (),
    )  # fmt: skip


def count_pairs(
    truth_HW: npt.NDArray[np.uint8], predicted_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Count the pixels of each pair of bitmask values, [256 of truth, 256 of prediction]."""
    marked_HW = (truth_HW | predicted_HW) != 0  # few pixels: counting the rest would take longer
    pair = truth_HW[marked_HW].astype(np.uint16) << 8 | predicted_HW[marked_HW]
    counts = np.bincount(pair, minlength=1 << 16).reshape(256, 256)
    counts[0, 0] = truth_HW.size - pair.size
    return counts


def areas_of(pairs: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    """Return predicted, true and common pixels of each class, [C, 3]."""
    truths, predictions = np.nonzero(pairs)
    counts = pairs[truths, predictions]
    areas_C3 = np.zeros((num_classes, 3), np.int64)
    for c in range(num_classes):
        predicted, true = predictions >> c & 1, truths >> c & 1
        areas_C3[c] = counts @ np.stack([predicted, true, predicted & true], axis=1)
    return areas_C3


def dice_of(areas: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return Dice of [..., (predicted, true, common)] areas; 1 if both are empty."""
    total = areas[..., 0] + areas[..., 1]
    return np.where(total == 0, 1.0, 2 * areas[..., 2] / np.maximum(total, 1))


def image_dice(judged: Judged, num_classes: int) -> float | None:
    """Mean Dice over the classes that are on an image or predicted on it; None without any."""
    areas_C3 = areas_of(count_pairs(judged.truth_HW, judged.predicted_HW), num_classes)
    concerned = areas_C3[areas_C3[:, :2].any(axis=1)]
    return _mean(dice_of(concerned))


def _class_metrics(areas_N3: npt.NDArray[np.int64], iou: float | None) -> ClassMetrics:
    present = areas_N3[:, 1] > 0
    return ClassMetrics(
        present_dice=_mean(dice_of(areas_N3[present])),
        recall=_mean(areas_N3[present, 2] > 0),
        false_alarm_rate=_mean(areas_N3[~present, 0] > 0),
        iou=iou,
        num_present=int(present.sum()),
    )


def _confusion(pairs: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    values = np.arange(256)
    member = [values == 0] + [(values >> c & 1).astype(bool) for c in range(num_classes)]
    member_K256 = np.stack(member).astype(np.int64)
    return np.asarray(member_K256 @ pairs @ member_K256.T, np.int64)


def _iou(common: int, true: int, predicted: int) -> float | None:
    union = true + predicted - common
    return common / union if union else None


def _calibrate(
    peak_NC: npt.NDArray[np.float32], present_NC: npt.NDArray[np.bool_]
) -> tuple[Calibration, ...]:
    bin_NC = np.clip((peak_NC * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    members = (bin_NC == b for b in range(CALIBRATION_BINS))
    return tuple(
        Calibration(
            mean_peak=float(peak_NC[member].mean()),
            share_present=float(present_NC[member].mean()),
            num_cases=int(member.sum()),
        )
        for member in members
        if member.any()
    )


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None
