"""Random fields from which surfaces and defects are built.

All numbers come from the generator that is passed in, in a fixed order, so an image depends only on
its seed and index. Shape suffixes: H rows, W columns.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Rng = np.random.Generator


def smooth_field(rng: Rng, height: int, width: int, cell_y: float, cell_x: float) -> Field:
    """Smooth noise with mean 0 and deviation about 1, in blobs of `cell_y` × `cell_x` px."""
    rows = max(2, int(np.ceil(height / cell_y)) + 1)
    columns = max(2, int(np.ceil(width / cell_x)) + 1)
    grid = rng.standard_normal((rows, columns), np.float32)
    field_HW: Field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return field_HW


def profile(rng: Rng, width: int, cell: float) -> Field:
    """Smooth noise along one axis, [1, width]."""
    return smooth_field(rng, 1, width, 1.0, cell)[:1]


def uniform(rng: Rng, low: float, high: float) -> float:
    """One number from a range, uniformly distributed."""
    return float(low + (high - low) * rng.random())


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """One number from a range, with its logarithm uniformly distributed."""
    return float(low * (high / low) ** rng.random())


def whole(rng: Rng, low: int, high: int) -> int:
    """One integer from a range, both ends included."""
    return int(rng.integers(low, high, endpoint=True))


def chance(rng: Rng, share: float) -> bool:
    """True with this probability."""
    return bool(rng.random() < share)


def soften(mask_HW: Mask, size: int) -> Field:
    """Turn a mask of 0 and 1 into an opacity with soft edges of about `size` px."""
    size |= 1
    opacity_HW: Field = cv2.GaussianBlur(mask_HW.astype(np.float32), (size, size), 0)
    return opacity_HW


def grow(mask_HW: Mask, size: int) -> Mask:
    """Dilate a mask by about `size` px."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1, 2 * size + 1))
    return np.asarray(cv2.dilate(mask_HW, kernel), np.uint8)


def close(mask_HW: Mask, size: int) -> Mask:
    """Close gaps of up to about twice `size` px, as an annotator's outline does."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1, 2 * size + 1))
    padded = cv2.copyMakeBorder(mask_HW, size, size, size, size, cv2.BORDER_CONSTANT)
    closed = cv2.erode(cv2.dilate(padded, kernel), kernel)
    return np.asarray(closed[size:-size, size:-size], np.uint8)
