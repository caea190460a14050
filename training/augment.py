"""What training shows of an image: crops that hold defects, turned, brighter or darker, noisier.

Crops are made by threads beside the one that drives the GPU, which waits whenever one of them holds
the interpreter: so pixels stay uint8, and each variation is one call of OpenCV.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.errors import ConfigError

Pixels = npt.NDArray[np.uint8]
NOISE_VALUES: Final = 1 << 22
"""Drawn once; each crop takes a stretch from a random place, ten times as fast as drawing anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How examples are varied."""

    crop_width: int = 512
    """Columns of a crop; all rows are kept."""
    defect_share: float = 0.75
    """Of the crops of an image with defects, this share is centred on one of its pixels."""
    mirror: bool = True
    """Whether crops are mirrored, along each axis in half of the cases."""
    transpose: bool = True
    """Whether rows and columns of square crops are exchanged, in half of the cases. Leave both out
    where a class is known by its direction."""
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
    mix_share: float = 0.0
    """Of the crops, those that get a rectangle of another one, with its mask."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.crop_width < 1:
            raise ConfigError(f"augment.crop_width is {self.crop_width}, expected 1 or more.")
        for name in ("defect_share", "mix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}, expected 0 to 1.")
        for name in ("gain", "shift", "contrast", "noise", "zoom", "rotate_degrees"):
            if getattr(self, name) < 0:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}, expected 0 or more.")


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
    upside_down, reversed_ = (config.mirror and rng.random() < 0.5 for _ in range(2))
    is_square = image_HW.shape[0] == image_HW.shape[1]
    is_transposed = config.transpose and is_square and rng.random() < 0.5
    turned = [
        _turn(pixels_HW, upside_down, reversed_, is_transposed)
        for pixels_HW in (image_HW, bitmask_HW)
    ]
    return _expose(turned[0], config, rng), turned[1]


def paste(
    crop_HW: tuple[Pixels, Pixels], other_HW: tuple[Pixels, Pixels], rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """A crop with a rectangle of another one of the same size, at the same place.

    S. Yun et al.: CutMix, ICCV 2019.

    Args:
        crop_HW: Image and bitmask.
        other_HW: Image and bitmask.
        rng: Chooses the rectangle: a tenth to nine tenths of either side.
    """
    edges = []
    for size in crop_HW[0].shape:
        length = int(size * rng.uniform(0.1, 0.9))
        start = int(rng.integers(size - length + 1))
        edges.append(slice(start, start + length))
    place = (edges[0], edges[1])
    image_HW, bitmask_HW = (pixels_HW.copy() for pixels_HW in crop_HW)
    image_HW[place], bitmask_HW[place] = (pixels_HW[place] for pixels_HW in other_HW)
    return image_HW, bitmask_HW


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


def _turn(pixels_HW: Pixels, upside_down: bool, reversed_: bool, is_transposed: bool) -> Pixels:
    """The same pixels in another order, contiguous."""
    if upside_down or reversed_:
        axes = {(True, False): 0, (False, True): 1, (True, True): -1}
        pixels_HW = cv2.flip(pixels_HW, axes[upside_down, reversed_])
    return cv2.transpose(pixels_HW) if is_transposed else np.ascontiguousarray(pixels_HW)


def _expose(image_HW: Pixels, config: AugmentConfig, rng: np.random.Generator) -> Pixels:
    factor, offset = 1.0, 0.0
    if config.contrast:
        factor = float(np.exp(rng.uniform(-config.contrast, config.contrast)))
        offset = cv2.mean(image_HW)[0] * (1 - factor)
    gain = float(np.exp(rng.uniform(-config.gain, config.gain)))
    factor, offset = factor * gain, offset * gain
    offset += float(rng.uniform(-config.shift, config.shift))
    if not config.noise:
        levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
        return np.asarray(cv2.LUT(image_HW, np.clip(levels, 0, 255).astype(np.uint8)), np.uint8)
    deviation = float(rng.uniform(0, config.noise))
    size = image_HW.size
    noise = _noise(max(NOISE_VALUES, 2 * size))
    start = int(rng.integers(noise.size - size))
    noise_HW = noise[start : start + size].reshape(image_HW.shape)
    # Half a level less, because OpenCV rounds where the table above cuts off.
    varied_HW = cv2.addWeighted(
        image_HW, factor, noise_HW, deviation, offset - 0.5, dtype=cv2.CV_8U
    )
    return np.asarray(varied_HW, np.uint8)


@functools.cache
def _noise(num_values: int) -> npt.NDArray[np.float32]:
    """Of mean 0 and deviation 1."""
    return np.random.default_rng(0).standard_normal(num_values, np.float32)
