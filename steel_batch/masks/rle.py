"""Run-length encoding of defect masks, in the Severstal convention.

Pixels are counted from 1, down each column, columns from left to right. A mask is written as
``start length start length …``. Shape suffixes: H rows, W columns. A *bitmask* holds eight masks;
bit c is class c+1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.errors import MaskError as MaskError

Bitmask = npt.NDArray[np.uint8]

PART_PX: Final = 1 << 20
"""Pixels that are looked at together. They stay in the processor's cache, and their memory is used
again: fresh memory for a batch of 64 masks took as long as all the rest."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one mask, in order."""

    start_px: npt.NDArray[np.int32]
    """First pixel of each run, counted from 1 down the columns."""
    length_px: npt.NDArray[np.int32]

    @property
    def area_px(self) -> int:
        """Total number of pixels."""
        return int(self.length_px.sum())


@dataclass(frozen=True, slots=True)
class BatchRuns(Runs):
    """The runs of every class of several bitmasks, sorted by mask, class and start."""

    mask: npt.NDArray[np.intp]
    """The mask that each run belongs to."""
    bit: npt.NDArray[np.intp]
    """The class of each run, from 0."""


def find_batch_runs(masks_HW: Sequence[Bitmask], bits: Sequence[int]) -> BatchRuns:
    """Find the runs of several bitmasks in one pass over their pixels, for any number of classes.

    Many masks take few calls, so encoding threads seldom wait for the interpreter's lock: 0.1 ms
    per mask of 256×1600 pixels, see `benchmarks/rle.py`.

    Args:
        masks_HW: Bit c of a pixel is class c+1. Sizes may differ.
        bits: For each mask, which bits to read; a mask with 0 is free.
    """
    # The columns that hold pixels, one mask after the other, with a zero before and after each, so
    # that the first and the last run need no special case.
    stretches = [_used_columns(m, b) for m, b in zip(masks_HW, bits, strict=True)]
    heights = np.array([mask_HW.shape[0] for mask_HW in masks_HW], np.intp)
    left, right = np.array(stretches, np.intp).reshape(-1, 2).T
    begin = np.concatenate([[0], np.cumsum((right - left) * heights + 1)])
    pixels = np.empty(max(PART_PX, int(np.diff(begin).max(initial=0))) + 1, np.uint8)
    is_edge = np.empty(len(pixels), np.bool_)
    parts = [
        _edges(masks_HW[part], stretches[part], begin[part.start : part.stop + 1], pixels, is_edge)
        for part in _parts(begin)
    ]
    at = np.concatenate([np.empty(0, np.intp), *(at for at, _ in parts)])
    mask = np.searchsorted(begin, at, side="right") - 1
    changed = np.concatenate([np.empty(0, np.uint8), *(bits for _, bits in parts)])
    changed &= np.array(bits, np.uint8)[mask]
    place = at - begin[mask] + left[mask] * heights[mask]
    found: list[tuple[npt.NDArray[Any], ...]] = []
    for c in range(8):
        edges = np.flatnonzero(changed & np.uint8(1 << c))
        if len(edges):
            opens, closes = edges[0::2], edges[1::2]
            start, end = place[opens], place[closes]
            found.append((start + 1, end - start, mask[opens], np.full(len(opens), c)))
    if not found:
        nothing = np.empty(0, np.int32)
        return BatchRuns(nothing, nothing, nothing.astype(np.intp), nothing.astype(np.intp))
    start, length, mask, bit = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(mask * 8 + bit, kind="stable")
    return BatchRuns(
        start[order].astype(np.int32), length[order].astype(np.int32), mask[order], bit[order]
    )


def _parts(begin: npt.NDArray[np.intp]) -> Iterator[slice]:
    """Cut masks that begin at these pixels into parts of up to `PART_PX`, or of one mask."""
    first, num = 0, len(begin) - 1
    while first < num:
        end = int(np.searchsorted(begin, begin[first] + PART_PX, side="right")) - 1
        end = max(end, first + 1)
        yield slice(first, end)
        first = end


def _edges(
    masks_HW: Sequence[Bitmask],
    stretches: Sequence[tuple[int, int]],
    begin: npt.NDArray[np.intp],
    pixels: Bitmask,
    is_edge: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.intp], Bitmask]:
    """Where the pixels of some masks change, and which bits do.

    Args:
        masks_HW: The masks.
        stretches: For each, its columns that hold pixels.
        begin: Where each begins among the pixels of all masks, and where the last one ends.
        pixels: Memory to write the pixels to, down the columns.
        is_edge: Memory of the same length.
    """
    start, end = int(begin[0]), int(begin[-1])
    pixels[begin - start] = 0
    for mask_HW, (first, last), at in zip(masks_HW, stretches, begin.tolist(), strict=False):
        if last > first:
            height, num = mask_HW.shape[0], last - first
            # OpenCV transposes in blocks, six times as fast as a strided numpy copy.
            down_WH = pixels[at - start + 1 :][: num * height].reshape(num, height)
            cv2.transpose(mask_HW[:, first:last], dst=down_WH)
    here, behind = pixels[: end - start], pixels[1 : end - start + 1]
    at = np.flatnonzero(np.not_equal(here, behind, out=is_edge[: end - start]))
    return at + start, here[at] ^ behind[at]


def _used_columns(mask_HW: Bitmask, bits: int) -> tuple[int, int]:
    """The first column that holds pixels, and the one after the last."""
    if not bits:
        return 0, 0
    used = np.flatnonzero(np.bitwise_or.reduce(mask_HW, axis=0) & np.uint8(bits))
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)


def find_runs(bitmask_HW: Bitmask, classes: Sequence[int]) -> list[Runs]:
    """Find the runs of some classes of one bitmask.

    Args:
        bitmask_HW: Bit c of a pixel is class c+1.
        classes: Which bits to read, from 0.

    Returns:
        One `Runs` per entry of `classes`, empty if the class has no pixel.
    """
    found = find_batch_runs([bitmask_HW], [sum(1 << c for c in set(classes))])
    which = [np.flatnonzero(found.bit == c) for c in classes]
    return [Runs(found.start_px[runs], found.length_px[runs]) for runs in which]


def encode_groups(runs: Runs, firsts: npt.NDArray[np.intp]) -> pa.StringArray:
    """Encode several masks whose runs follow one another.

    Args:
        runs: The runs of all masks.
        firsts: Where the runs of each mask begin.
    """
    pairs = pa.array(np.column_stack([runs.start_px, runs.length_px]).ravel())
    offsets = np.append(2 * firsts, len(pairs)).astype(np.int32)
    texts = pa.ListArray.from_arrays(offsets, pairs.cast(pa.string()))
    return pc.binary_join(texts, " ")


def encode_runs(runs: Runs) -> str:
    """Encode some runs as text; ``""`` for none."""
    text: str = encode_groups(runs, np.zeros(1, np.intp))[0].as_py()
    return text


def encode_rle(mask_HW: npt.NDArray[np.uint8]) -> str:
    """Encode one defect mask as run-length pairs.

    Args:
        mask_HW: 0 or 1 per pixel, at source resolution.

    Returns:
        ``"start length"`` pairs joined by spaces; ``""`` for an empty mask.

    Raises:
        MaskError: The mask is not 2-D or holds a value other than 0 and 1.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype.kind not in "bu" or mask_HW.max(initial=0) > 1:
        raise MaskError(
            f"expected a 2-D mask of 0 and 1 as unsigned bytes, found {mask_HW.dtype} of shape "
            f"{mask_HW.shape} with values up to {mask_HW.max(initial=0)}."
        )
    (runs,) = find_runs(mask_HW.astype(np.uint8, copy=False), [0])
    return encode_runs(runs)


def parse_rle(rle: str, num_pixels: int) -> Runs:
    """Parse run-length pairs strictly.

    Args:
        rle: ``start length`` pairs separated by white space; empty for no runs.
        num_pixels: Number of pixels of the image.

    Raises:
        MaskError: A run is malformed, out of bounds, out of order or overlaps the previous one.
            Adjacent runs are accepted.
    """
    values = _parse_numbers(rle)
    if len(values) % 2:
        raise MaskError(f"{len(values)} numbers, expected pairs of start and length.")
    starts, lengths = values[0::2], values[1::2]
    bad = np.flatnonzero((starts < 1) | (lengths < 1))
    if len(bad):
        i = int(bad[0])
        raise MaskError(f"run {i + 1} ({starts[i]} {lengths[i]}) has a number below 1.")
    bad = np.flatnonzero(lengths > num_pixels + 1 - starts)
    if len(bad):
        i = int(bad[0])
        end = int(starts[i]) + int(lengths[i]) - 1
        raise MaskError(
            f"run {i + 1} ({starts[i]} {lengths[i]}) ends at pixel {end} of {num_pixels}."
        )
    bad = np.flatnonzero(starts[1:] < starts[:-1] + lengths[:-1])
    if len(bad):
        i = int(bad[0]) + 1
        order = "overlaps" if starts[i] >= starts[i - 1] else "comes before"
        raise MaskError(
            f"run {i + 1} ({starts[i]} {lengths[i]}) {order} run {i} "
            f"({starts[i - 1]} {lengths[i - 1]})."
        )
    return Runs(starts.astype(np.int32), lengths.astype(np.int32))


def _parse_numbers(rle: str) -> npt.NDArray[np.int64]:
    """Parse the numbers of a text; numbers beyond 64 bits become the largest 64-bit one."""
    if rle.isascii() and rle.replace(" ", "").isdigit():
        return np.fromstring(rle, np.int64, sep=" ")
    words = rle.split()
    for i, word in enumerate(words):
        if not (word.isascii() and word.isdigit()):
            raise MaskError(f"number {i + 1} is {word!r}, expected a positive integer.")
    return np.fromstring(" ".join(words), np.int64, sep=" ")


def decode_rle(rle: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Decode run-length pairs to a mask.

    Returns:
        0 or 1 per pixel, [height, width].

    Raises:
        MaskError: See `parse_rle`.
    """
    runs = parse_rle(rle, height * width)
    if not len(runs.start_px):
        return np.zeros((height, width), np.uint8)
    edges = np.zeros(2 * len(runs.start_px) + 2, np.int64)
    edges[1:-1:2] = runs.start_px - 1
    edges[2:-1:2] = runs.start_px - 1 + runs.length_px
    edges[-1] = height * width
    values = np.zeros(len(edges) - 1, np.uint8)
    values[1::2] = 1
    pixels = np.repeat(values, np.diff(edges))
    return np.asarray(cv2.transpose(pixels.reshape(width, height)))
