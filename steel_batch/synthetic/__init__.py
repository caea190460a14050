"""Synthetic strip images with exact masks, for the demo, the tests and the demo engine.

An image depends only on (seed, index): the pixels are the same on any machine, in any order, in any
number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steel_batch.synthetic.defects import CLASSES, choose_classes, draw_defect
from steel_batch.synthetic.surface import HEIGHT, WIDTH, expose, make_surface

__all__ = ["CLASSES", "HEIGHT", "WIDTH", "Strip", "render"]


@dataclass(frozen=True, slots=True)
class Strip:
    """One image and its masks."""

    image_HW: npt.NDArray[np.uint8]
    bitmask_HW: npt.NDArray[np.uint8]
    """Bit c of a pixel is class c+1."""


def render(seed: int, index: int) -> Strip:
    """Draw one strip of 256×1600 pixels.

    Args:
        seed: Seed of the set, 0 or more.
        index: Number of the image in the set, 0 or more.

    Returns:
        The image and its masks. About half of the images are clean.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    image_HW, steel_HW = make_surface(rng)
    bitmask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    for class_id in choose_classes(rng):
        mask_HW = draw_defect(rng, class_id, image_HW, steel_HW)
        bitmask_HW |= mask_HW << (class_id - 1)
    return Strip(image_HW=expose(rng, image_HW), bitmask_HW=bitmask_HW)
