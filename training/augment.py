"""Augmentation: random crops that contain defects, flipped, warped, with other levels and noise.

Crops are made by threads next to the one that drives the GPU, which waits whenever one of them
holds the GIL. So pixels stay uint8, and each variation is one call of OpenCV.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.errors import ConfigError

Pixels = npt.NDArray[np.uint8]
Layers = Sequence[Pixels]
NOISE_VALUES: Final = 1 << 22
"""Noise is drawn once; each crop takes a stretch from a random position, ten times as fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How crops are augmented."""

    crop_width: int = 512
    """Columns of a crop; all rows are kept."""
    defect_share: float = 0.75
    """Share of the crops of images with defects that are centred on a defect pixel."""
    mirror: bool = True
    """Whether crops are mirrored along each axis, with probability 0.5."""
    transpose: bool = True
    """Whether rows and columns of square crops are exchanged, with probability 0.5. Turn off both
    if a class is defined by its direction."""
    gain: float = 0.35
    """Largest brightness factor, as a logarithm, up or down."""
    shift: float = 12.0
    """Largest brightness offset, in gray levels."""
    contrast: float = 0.0
    """Largest contrast factor, as a logarithm, up or down, on the distance from the crop's mean."""
    noise: float = 0.0
    """Largest standard deviation of noise, in gray levels; drawn for each crop."""
    zoom: float = 0.0
    """Largest zoom factor, as a logarithm, up or down."""
    rotate_degrees: float = 0.0
    """Largest rotation to either side; pixels from outside of the image are mirrored."""
    mix_share: float = 0.0
    """Share of the crops that get a rectangle of another crop, with its mask."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.crop_width < 1:
            raise ConfigError(f"augment.crop_width is {self.crop_width}, expected 1 or more.")
        for name in ("defect_share", "mix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}, expected 0 to 1.")
        for name in ("gain", "shift", "contrast", "noise", "zoom", "rotate_degrees"):
            if getattr(self, name) < 0:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}, expected 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The random parameters of one crop: its position and its augmentation."""

    left: int
    width: int
    rotate_degrees: float
    scale: float
    """With `rotate_degrees`, 1 and 0 where the crop is not warped."""
    upside_down: bool
    reversed: bool
    transposed: bool
    contrast: float
    """Factor on the distance from the crop's mean."""
    gain: float
    shift: float
    deviation: float | None
    """Standard deviation of noise; with None, levels are truncated instead of rounded."""
    noise_start: int
    """Position in the noise bank."""

    @property
    def is_warped(self) -> bool:
        """Whether the crop is zoomed or rotated, so that pixels are interpolated."""
        return self.rotate_degrees != 0 or self.scale != 1

    def matrix(self, height: int) -> npt.NDArray[np.float64]:
        """The affine matrix from a pixel of the crop (x, y, 1) to its position, [2, 3]."""
        center = ((self.width - 1) / 2, (height - 1) / 2)
        matrix = cv2.getRotationMatrix2D(center, self.rotate_degrees, self.scale)
        return np.asarray(matrix, np.float64)

    def place(self, pixels_HW: Pixels, *, between: bool) -> Pixels:
        """Return the crop of an image or mask, warped and flipped.

        Args:
            pixels_HW: The whole image or mask.
            between: Interpolate between pixels if it is warped; otherwise take the nearest one.
        """
        pixels_HW = pixels_HW[:, self.left : self.left + self.width]
        if self.is_warped:
            warped = cv2.warpAffine(
                np.ascontiguousarray(pixels_HW),
                self.matrix(len(pixels_HW)),
                (self.width, len(pixels_HW)),
                flags=cv2.INTER_LINEAR if between else cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            pixels_HW = np.asarray(warped, np.uint8)
        if self.upside_down or self.reversed:
            axes = {(True, False): 0, (False, True): 1, (True, True): -1}
            pixels_HW = cv2.flip(pixels_HW, axes[self.upside_down, self.reversed])
        if self.transposed:
            return np.asarray(cv2.transpose(pixels_HW), np.uint8)
        return np.ascontiguousarray(pixels_HW)

    def expose(self, image_HW: Pixels) -> Pixels:
        """Apply brightness, contrast and noise to a placed crop."""
        offset = cv2.mean(image_HW)[0] * (1 - self.contrast) if self.contrast != 1 else 0.0
        factor, offset = self.contrast * self.gain, offset * self.gain + self.shift
        if self.deviation is None:
            levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
            return np.asarray(cv2.LUT(image_HW, np.clip(levels, 0, 255).astype(np.uint8)), np.uint8)
        start = self.noise_start
        noise_HW = noise_bank(image_HW.size)[start : start + image_HW.size].reshape(image_HW.shape)
        # Half a level less: OpenCV rounds, while the table above truncates.
        varied_HW = cv2.addWeighted(
            image_HW, factor, noise_HW, self.deviation, offset - 0.5, dtype=cv2.CV_8U
        )
        return np.asarray(varied_HW, np.uint8)


def draw(
    size: tuple[int, int],
    columns: npt.NDArray[np.intp],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Draw:
    """Draw the parameters of a crop; its size depends on the image's size only.

    Args:
        size: Height and width of the image.
        columns: Columns of the image that contain a defect.
        config: How crops are augmented.
        rng: The random generator.
    """
    height, width = size[0], min(config.crop_width, size[1])
    last, left = size[1] - width, 0
    if last:
        if len(columns) and rng.random() < config.defect_share:
            center = int(rng.choice(columns)) + int(rng.integers(-width // 3, width // 3 + 1))
            left = min(max(center - width // 2, 0), last)
        else:
            left = int(rng.integers(0, last + 1))
    degrees, scale = 0.0, 1.0
    if config.zoom or config.rotate_degrees:
        degrees = float(rng.uniform(-config.rotate_degrees, config.rotate_degrees))
        scale = float(np.exp(rng.uniform(-config.zoom, config.zoom)))
    upside_down, reversed_ = (config.mirror and rng.random() < 0.5 for _ in range(2))
    transposed = config.transpose and height == width and rng.random() < 0.5
    contrast, deviation, start = 1.0, None, 0
    if config.contrast:
        contrast = float(np.exp(rng.uniform(-config.contrast, config.contrast)))
    gain = float(np.exp(rng.uniform(-config.gain, config.gain)))
    shift = float(rng.uniform(-config.shift, config.shift))
    if config.noise:
        deviation = float(rng.uniform(0, config.noise))
        num_pixels = height * width
        start = int(rng.integers(noise_bank(num_pixels).size - num_pixels))
    return Draw(
        left=left,
        width=width,
        rotate_degrees=degrees,
        scale=scale,
        upside_down=upside_down,
        reversed=reversed_,
        transposed=transposed,
        contrast=contrast,
        gain=gain,
        shift=shift,
        deviation=deviation,
        noise_start=start,
    )


def crop(
    image_HW: Pixels, bitmask_HW: Pixels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Return a random augmented crop; its size depends on the image's size only."""
    height, width = image_HW.shape
    drawn = draw((height, width), defect_columns(bitmask_HW), config, rng)
    placed_HW = drawn.place(image_HW, between=True)
    return drawn.expose(placed_HW), drawn.place(bitmask_HW, between=False)


def defect_columns(bitmask_HW: Pixels) -> npt.NDArray[np.intp]:
    """Return the columns of a bitmask that contain a defect."""
    return np.flatnonzero(bitmask_HW.any(axis=0))


def draw_rectangle(size: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Draw the rectangle of a crop to replace: a tenth to nine tenths of either side.

    S. Yun et al.: CutMix, ICCV 2019.
    """
    edges = []
    for side in size:
        length = int(side * rng.uniform(0.1, 0.9))
        start = int(rng.integers(side - length + 1))
        edges.append(slice(start, start + length))
    return edges[0], edges[1]


def paste(
    crop_layers: Layers, other_layers: Layers, rectangle: tuple[slice, slice]
) -> tuple[Pixels, ...]:
    """Paste a rectangle of another crop of the same size, at the same position.

    Args:
        crop_layers: Image, bitmask and other layers of the crop, [..., H, W].
        other_layers: The same layers of the other crop.
        rectangle: See `draw_rectangle`.
    """
    pasted = tuple(pixels.copy() for pixels in crop_layers)
    for pixels, other in zip(pasted, other_layers, strict=True):
        pixels[..., rectangle[0], rectangle[1]] = other[..., rectangle[0], rectangle[1]]
    return pasted


def noise_bank(num_pixels: int) -> npt.NDArray[np.float32]:
    """Return noise of mean 0 and deviation 1; each crop of up to `num_pixels` takes a stretch."""
    return _noise(max(NOISE_VALUES, 2 * num_pixels))


@functools.cache
def _noise(num_values: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(num_values, np.float32)
