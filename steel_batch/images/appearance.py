"""How images look, in three numbers each, from a few of their rows.

Rows suffice: what is compared is a day's images with those of other days. Whole rows can be copied
from a GPU in one call, where the pixels of JPEGs are that it decoded itself.

Shape suffixes: N images, H rows, W columns.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

FEWEST_ROWS: Final = 16
"""Rows of an image that are looked at, unless it has fewer or a number that few divide."""
MEASURES: Final = ("brightness", "contrast", "sharpness")
"""The columns of `measure`, in gray levels.

Mean, standard deviation, and mean difference of neighbouring pixels of a row.
"""


def row_step(height: int) -> int:
    """Which rows are looked at: every so-many-th from the first, as many of each image."""
    return max(step for step in range(1, max(1, height // FEWEST_ROWS) + 1) if height % step == 0)


def measure(sample_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """`MEASURES` of some images, [N, 3].

    A batch takes a few calls: after each, a thread waits for the interpreter's lock.

    Args:
        sample_NHW: Some rows of each image.
    """
    num, _, width = sample_NHW.shape
    found = np.zeros((num, len(MEASURES)))
    if not num:
        return found.astype(np.float32)
    pixels = sample_NHW.reshape(num, -1)
    mean = _sums(pixels, cv2.REDUCE_SUM) / pixels.shape[1]
    square = _sums(pixels, cv2.REDUCE_SUM2) / pixels.shape[1]
    found[:, 0], found[:, 1] = mean, np.sqrt(np.maximum(square - mean**2, 0))
    if width > 1:
        rows = sample_NHW.reshape(-1, width)
        steps = cv2.absdiff(rows[:, 1:], rows[:, :-1]).reshape(num, -1)
        found[:, 2] = _sums(steps, cv2.REDUCE_SUM) / steps.shape[1]
    return found.astype(np.float32)


def _sums(values: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[np.float64]:
    """The sum of each row, or of its squares; exact."""
    largest = values.shape[1] * (255**2 if kind == cv2.REDUCE_SUM2 else 255)
    dtype = cv2.CV_32S if largest < 1 << 31 else cv2.CV_64F  # whole numbers are much faster
    return np.asarray(cv2.reduce(values, 1, kind, dtype=dtype)[:, 0], np.float64)
