"""Run-length encoding of defect masks: the Severstal convention.

Pixels count from 1, down each column and then right; a mask is ``start length start length …``.
Shape suffixes: H rows, W columns. A *bitmask* holds eight masks, bit c being class c+1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.errors import ImageError


class MaskError(ImageError):
    """A mask or its run-length encoding is malformed."""

    default_code = "bad_mask"


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one mask, in order."""

    start_px: npt.NDArray[np.int32]
    """First pixel of each run, counted from 1 down the columns."""
    length_px: npt.NDArray[np.int32]

    @property
    def area_px(self) -> int:
        """Pixels in all runs."""
        return int(self.length_px.sum())


def find_runs(bitmask_HW: npt.NDArray[np.uint8], classes: Sequence[int]) -> list[Runs]:
    """The runs of some classes of a bitmask, in one pass over its pixels.

    Args:
        bitmask_HW: Bit c of a pixel is class c+1.
        classes: Which bits to look at, from 0.

    Returns:
        One `Runs` per entry of `classes`, empty where the class has no pixel.
    """
    height, width = bitmask_HW.shape
    # One byte of zeros on both sides makes the first and the last run ordinary ones. OpenCV
    # transposes in blocks, four times as fast as a strided numpy copy.
    column = np.zeros(height * width + 2, np.uint8)
    cv2.transpose(bitmask_HW, dst=column[1:-1].reshape(width, height))
    changed = np.bitwise_xor(column[1:], column[:-1])
    at = _nonzero(changed)
    bits = changed[at]
    runs = []
    for c in classes:
        edges = at[(bits & np.uint8(1 << c)) != 0]
        starts = edges[0::2]
        runs.append(Runs((starts + 1).astype(np.int32), (edges[1::2] - starts).astype(np.int32)))
    return runs


def _nonzero(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Indices of the bytes that are not 0, skipping empty words of eight at once."""
    whole = len(values) & ~7
    words = np.flatnonzero(values[:whole].view(np.uint64))
    candidates = (words[:, None] * 8 + np.arange(8)).ravel()
    found = candidates[values[candidates] != 0]
    tail = np.flatnonzero(values[whole:]) + whole
    return np.concatenate([found, tail]) if len(tail) else found


def encode_runs(runs: Runs) -> str:
    """The text of some runs; ``""`` for none."""
    pairs = np.empty(2 * len(runs.start_px), np.int32)
    pairs[0::2], pairs[1::2] = runs.start_px, runs.length_px
    return " ".join(map(str, pairs.tolist()))


def encode_rle(mask_HW: npt.NDArray[np.uint8]) -> str:
    """Encode one defect mask as run-length pairs.

    Args:
        mask_HW: 0 or 1 per pixel, at source resolution.

    Returns:
        ``"start length"`` pairs joined by spaces; ``""`` for an empty mask.

    Raises:
        MaskError: The mask is not 2-D or holds a value other than 0 and 1.
    """
    if mask_HW.ndim != 2 or (mask_HW.size and int(mask_HW.max()) > 1):
        raise MaskError(
            f"expected a 2-D mask of 0 and 1, found shape {mask_HW.shape} with values up to "
            f"{mask_HW.max(initial=0)}."
        )
    return encode_runs(find_runs(np.ascontiguousarray(mask_HW, np.uint8), [0])[0])


def parse_rle(rle: str, num_pixels: int) -> Runs:
    """Read run-length pairs strictly.

    Args:
        rle: ``start length`` pairs; empty for no runs.
        num_pixels: Pixels of the image.

    Raises:
        MaskError: A run is malformed, out of bounds, out of order or overlaps the one before.
    """
    words = rle.split()
    try:
        values = np.array(words, np.int64)
    except (ValueError, OverflowError):
        wrong = next(word for word in words if not word.isdigit())
        raise MaskError(f"{wrong!r} is not a whole number.") from None
    if len(values) % 2:
        raise MaskError(f"{len(values)} numbers are no pairs of start and length.")
    starts, lengths = values[0::2], values[1::2]
    bad = np.flatnonzero((starts < 1) | (lengths < 1))
    if len(bad):
        i = int(bad[0])
        raise MaskError(f"run {i + 1} ({starts[i]} {lengths[i]}) has a number less than 1.")
    ends = starts + lengths - 1
    if len(ends) and int(ends.max()) > num_pixels:
        i = int(np.argmax(ends > num_pixels))
        raise MaskError(
            f"run {i + 1} ({starts[i]} {lengths[i]}) ends at pixel {ends[i]} of {num_pixels}."
        )
    bad = np.flatnonzero(starts[1:] <= ends[:-1])
    if len(bad):
        i = int(bad[0]) + 1
        order = "overlaps" if starts[i] >= starts[i - 1] else "comes before"
        raise MaskError(
            f"run {i + 1} ({starts[i]} {lengths[i]}) {order} run {i} "
            f"({starts[i - 1]} {lengths[i - 1]})."
        )
    return Runs(starts.astype(np.int32), lengths.astype(np.int32))


def decode_rle(rle: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The mask of some run-length pairs.

    Returns:
        0 or 1 per pixel, [height, width].

    Raises:
        MaskError: See `parse_rle`.
    """
    runs = parse_rle(rle, height * width)
    edges = np.zeros(height * width + 1, np.int8)
    np.add.at(edges, runs.start_px - 1, 1)
    np.add.at(edges, runs.start_px - 1 + runs.length_px, -1)
    column = np.cumsum(edges[:-1], dtype=np.int8).astype(np.uint8)
    return np.ascontiguousarray(column.reshape(width, height).T)
