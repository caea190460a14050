"""What training shows of an image: crops that hold defects, mirrored, brighter or darker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How examples are varied."""

    crop_width: int = 512
    """Columns of a crop; all rows are kept."""
    defect_share: float = 0.75
    """Of the crops of an image with defects, this share is centred on one of its pixels."""
    gain: float = 0.35
    """Greatest factor, up or down in logarithm, on brightness."""
    shift: float = 12.0
    """Greatest addition to brightness, in grey levels."""


def crop(
    image_HW: Pixels, bitmask_HW: Pixels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """A random crop, mirrored and with its brightness changed."""
    width = min(config.crop_width, image_HW.shape[1])
    last = image_HW.shape[1] - width
    columns = np.flatnonzero(bitmask_HW.any(axis=0))
    if len(columns) and rng.random() < config.defect_share:
        center = int(rng.choice(columns)) + int(rng.integers(-width // 3, width // 3 + 1))
        left = min(max(center - width // 2, 0), last)
    else:
        left = int(rng.integers(0, last + 1))
    image_HW = image_HW[:, left : left + width]
    bitmask_HW = bitmask_HW[:, left : left + width]
    for axis in (0, 1):
        if rng.random() < 0.5:
            image_HW, bitmask_HW = np.flip(image_HW, axis), np.flip(bitmask_HW, axis)
    factor = np.exp(rng.uniform(-config.gain, config.gain))
    shift = rng.uniform(-config.shift, config.shift)
    varied_HW = np.clip(image_HW.astype(np.float32) * factor + shift, 0, 255)
    return varied_HW.astype(np.uint8), np.ascontiguousarray(bitmask_HW)
