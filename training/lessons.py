"""A teacher's predictions for the images that another network learns from.

They are computed once, on whole images, and kept compressed: most pixels have no defect, so little
is left of them. Shape suffixes: C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.dataset import Dataset

CODEC: Final = "lz4"
LEVELS: Final = 255
"""The level of probability 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """A teacher's probabilities for each image, and its masks for unlabelled images."""

    answers: Sequence[bytes]
    """For the labelled images and then the unlabelled ones: see `pack`."""
    shape_CHW: tuple[int, int, int]
    """The shape of each answer."""
    unlabelled: Dataset | None = None
    """The unlabelled images, with the teacher's masks."""

    def answer(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the probabilities of one image in steps of 1/255, [C, H, W]; read-only."""
        size = int(np.prod(self.shape_CHW))
        content = pa.decompress(self.answers[index], decompressed_size=size, codec=CODEC)
        return np.frombuffer(content, np.uint8).reshape(self.shape_CHW)


def pack(probability_CHW: npt.NDArray[np.float32]) -> bytes:
    """Compress one answer for `Lessons`."""
    levels = np.rint(probability_CHW * np.float32(LEVELS)).astype(np.uint8)
    return bytes(pa.compress(np.ascontiguousarray(levels), codec=CODEC, asbytes=True))
