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
    num, height, width = sample_NHW.shape
    found = np.zeros((num, len(MEASURES)))
    if not num:
        return found.astype(np.float32)
    rows = sample_NHW.reshape(-1, width)
    mean, square = (
        _sums(rows, kind).reshape(num, height).mean(axis=1) / width
        for kind in (cv2.REDUCE_SUM, cv2.REDUCE_SUM2)
    )
    found[:, 0], found[:, 1] = mean, np.sqrt(np.maximum(square - mean**2, 0))
    if width > 1:
        steps = _sums(cv2.absdiff(rows[:, 1:], rows[:, :-1]), cv2.REDUCE_SUM)
        found[:, 2] = steps.reshape(num, height).mean(axis=1) / (width - 1)
    return found.astype(np.float32)


def _sums(rows: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[np.float64]:
    """The sum of each row, or of its squares; exact for up to 66,051 pixels.

    OpenCV adds squares of bytes as 32-bit integers, also if the result is to be a double.
    """
    sums = cv2.reduce(rows, 1, kind, dtype=cv2.CV_32S)
    return np.asarray(sums[:, 0].view(np.uint32), np.float64)
