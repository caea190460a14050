"""What a teacher says of the images that another network learns from.

Its answers are computed once, on whole images, and kept as bytes: most pixels have no defect, so
that little is left of them once they are compressed. Shape suffixes: C classes, H rows, W columns.
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
"""A probability of 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """A teacher's probabilities of each image, and what it marked where nobody had."""

    answers: Sequence[bytes]
    """Of the labelled images and then of the unlabelled ones: see `pack`."""
    shape_CHW: tuple[int, int, int]
    """Of each answer."""
    unlabelled: Dataset | None = None
    """With the teacher's masks."""

    def answer(self, index: int) -> npt.NDArray[np.uint8]:
        """Probabilities of one image in steps of 1/255, [C, H, W]; not to be written to."""
        size = int(np.prod(self.shape_CHW))
        content = pa.decompress(self.answers[index], decompressed_size=size, codec=CODEC)
        return np.frombuffer(content, np.uint8).reshape(self.shape_CHW)


def pack(probability_CHW: npt.NDArray[np.float32]) -> bytes:
    """One answer as `Lessons` keeps it."""
    levels = np.rint(probability_CHW * np.float32(LEVELS)).astype(np.uint8)
    return bytes(pa.compress(np.ascontiguousarray(levels), codec=CODEC, asbytes=True))
