"""What training shows of an image: crops that hold defects, turned, brighter or darker, noisier."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How examples are varied. Square crops are transposed as well as mirrored."""

    crop_width: int = 512
    """Columns of a crop; all rows are kept."""
    defect_share: float = 0.75
    """Of the crops of an image with defects, this share is centred on one of its pixels."""
    gain: float = 0.35
    """Greatest factor, up or down in logarithm, on brightness."""
    shift: float = 12.0
    """Greatest addition to brightness, in grey levels."""
    contrast: float = 0.0
    """Greatest factor, up or down in logarithm, on the distance from the crop's mean."""
    noise: float = 0.0
    """Greatest standard deviation of noise, in grey levels; each crop has its own."""
    zoom: float = 0.0
    """Greatest factor, up or down in logarithm, on size."""
    rotate_degrees: float = 0.0
    """Greatest rotation to either side; what comes in from outside is mirrored."""


def crop(
    image_HW: Pixels, bitmask_HW: Pixels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """A random crop, varied; its size depends on the image's alone."""
    width = min(config.crop_width, image_HW.shape[1])
    last = image_HW.shape[1] - width
    left = 0
    if last:
        columns = np.flatnonzero(bitmask_HW.any(axis=0))
        if len(columns) and rng.random() < config.defect_share:
            center = int(rng.choice(columns)) + int(rng.integers(-width // 3, width // 3 + 1))
            left = min(max(center - width // 2, 0), last)
        else:
            left = int(rng.integers(0, last + 1))
    image_HW = image_HW[:, left : left + width]
    bitmask_HW = bitmask_HW[:, left : left + width]
    if config.zoom or config.rotate_degrees:
        image_HW, bitmask_HW = _warp(image_HW, bitmask_HW, config, rng)
    for axis in (0, 1):
        if rng.random() < 0.5:
            image_HW, bitmask_HW = np.flip(image_HW, axis), np.flip(bitmask_HW, axis)
    if image_HW.shape[0] == image_HW.shape[1] and rng.random() < 0.5:
        image_HW, bitmask_HW = image_HW.T, bitmask_HW.T
    return _expose(image_HW, config, rng), np.ascontiguousarray(bitmask_HW)


def _warp(
    image_HW: Pixels, bitmask_HW: Pixels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    height, width = image_HW.shape
    matrix = cv2.getRotationMatrix2D(
        ((width - 1) / 2, (height - 1) / 2),
        float(rng.uniform(-config.rotate_degrees, config.rotate_degrees)),
        float(np.exp(rng.uniform(-config.zoom, config.zoom))),
    )
    warped = [
        cv2.warpAffine(
            np.ascontiguousarray(pixels_HW),
            matrix,
            (width, height),
            flags=flags,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        for pixels_HW, flags in ((image_HW, cv2.INTER_LINEAR), (bitmask_HW, cv2.INTER_NEAREST))
    ]
    return np.asarray(warped[0], np.uint8), np.asarray(warped[1], np.uint8)


def _expose(image_HW: Pixels, config: AugmentConfig, rng: np.random.Generator) -> Pixels:
    varied_HW = image_HW.astype(np.float32)
    if config.contrast:
        mean = varied_HW.mean()
        factor = np.float32(np.exp(rng.uniform(-config.contrast, config.contrast)))
        varied_HW = (varied_HW - mean) * factor + mean
    varied_HW *= np.float32(np.exp(rng.uniform(-config.gain, config.gain)))
    varied_HW += np.float32(rng.uniform(-config.shift, config.shift))
    if config.noise:
        deviation = np.float32(rng.uniform(0, config.noise))
        varied_HW += deviation * rng.standard_normal(varied_HW.shape, np.float32)
    return np.clip(varied_HW, 0, 255).astype(np.uint8)
