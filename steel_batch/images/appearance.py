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

    Args:
        sample_NHW: Some rows of each image.
    """
    found = np.zeros((len(sample_NHW), len(MEASURES)), np.float32)
    for place, rows_HW in enumerate(sample_NHW):
        mean, deviation = cv2.meanStdDev(rows_HW)
        found[place, :2] = mean[0, 0], deviation[0, 0]
        if rows_HW.shape[1] > 1:
            left_HW, right_HW = rows_HW[:, :-1], rows_HW[:, 1:]
            found[place, 2] = cv2.norm(left_HW, right_HW, cv2.NORM_L1) / left_HW.size
    return found
