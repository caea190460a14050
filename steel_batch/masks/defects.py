"""Converts the bitmasks of a whole batch to defects: areas, components, boxes and runs.

Pixels are read once, to find the runs; everything else is arithmetic on runs, of which a real mask
of 256×1600 pixels has a few hundred. All images go through each step together: an actor is slowed
down not by the arithmetic but by its threads, which wait for the interpreter's lock at every call.
Components are 8-connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch import schema
from steel_batch.masks.rle import BatchRuns, Runs, encode_groups, find_batch_runs
from steel_batch.registry.card import PostProcess

MAX_COMPONENTS: Final = 32_767
"""Maximum of the column's type; an image with more components is counted as this many."""

Ints = npt.NDArray[np.intp]


def describe_defects(
    masks_HW: Sequence[npt.NDArray[np.uint8]],
    peak_NC: npt.NDArray[np.float32],
    count_NC: npt.NDArray[np.float32],
    post_process: PostProcess,
    *,
    engine_px: int,
) -> pa.ListArray:
    """Compute the defects of some images.

    Args:
        masks_HW: Bitmasks at source resolution; sizes may differ.
        peak_NC: Highest probability per class.
        count_NC: Pixels per class as counted by the engine; an image without any is free.
        post_process: Components and classes smaller than its limits are dropped.
        engine_px: Pixels of the engine's input, the unit of the limits in `post_process`. On an
            image of another size, a limit stands for the same share of the image.

    Returns:
        The column ``defects``: for each image a list of `schema.DEFECT`, one per class with pixels
        left, in class order.
    """
    bits = (count_NC > 0) @ (1 << np.arange(count_NC.shape[1]))
    runs = find_batch_runs(masks_HW, bits.tolist())
    sizes = np.array([mask_HW.shape for mask_HW in masks_HW], np.intp).reshape(-1, 2)
    runs, num_components = _keep_components(runs, sizes, post_process, engine_px)
    first = _firsts(runs)
    mask, bit = runs.mask[first], runs.bit[first]
    area_px = np.add.reduceat(runs.length_px, first) if len(first) else first
    x, y, w, h = _boxes(runs, first, sizes[mask, 0])
    defects = pa.StructArray.from_arrays(
        [
            pa.array((bit + 1).astype(np.int8)),
            encode_groups(runs, first),
            pa.array(area_px.astype(np.int32)),
            pa.array(np.minimum(num_components[mask, bit], MAX_COMPONENTS).astype(np.int16)),
            pa.StructArray.from_arrays(
                [pa.array(edge.astype(np.int32)) for edge in (x, y, w, h)],
                fields=list(schema.DEFECT.field("bbox").type),
            ),
            pa.array(peak_NC[mask, bit].astype(np.float32)),
        ],
        fields=list(schema.DEFECT),
    )
    least_px = np.array(post_process.min_area_px, np.int64)[bit]
    is_large = is_at_least(area_px, least_px, sizes.prod(axis=1)[mask], engine_px)
    ends = np.cumsum(np.bincount(mask[is_large], minlength=len(masks_HW)))
    offsets = pa.array(np.append(0, ends).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, defects.filter(pa.array(is_large)))


def is_at_least(
    area_px: npt.NDArray[np.int64],
    least_px: npt.NDArray[np.int64],
    image_px: npt.NDArray[np.int64],
    engine_px: int,
) -> npt.NDArray[np.bool_]:
    """Whether areas on images reach a minimum that is stated in the engine's pixels; exact."""
    found: npt.NDArray[np.bool_] = area_px.astype(np.int64) * engine_px >= least_px * image_px
    return found


def _firsts(runs: BatchRuns) -> Ints:
    """Where the runs of each mask and class begin."""
    return _changes(runs.mask * 8 + runs.bit)


def _changes(values: npt.NDArray[np.int64]) -> Ints:
    """Where stretches of equal values begin."""
    if not len(values):
        return np.empty(0, np.intp)
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Runs, cut where they continue in the next column."""

    run: Ints
    """The run that each piece belongs to."""
    column: Ints
    top: Ints
    length_px: Ints


def _cut_at_columns(runs: Runs, height: Ints) -> _Pieces:
    start = runs.start_px.astype(np.intp) - 1
    last = start + runs.length_px - 1
    column = start // height
    num_pieces = last // height - column + 1
    run = np.repeat(np.arange(len(start)), num_pieces)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    column, border = column[run] + nth, height[run]
    begin = np.maximum(start[run], column * border)
    end = np.minimum(last[run] + 1, (column + 1) * border)
    return _Pieces(run, column, begin - column * border, end - begin)


def _keep_components(
    runs: BatchRuns, sizes: Ints, post_process: PostProcess, engine_px: int
) -> tuple[BatchRuns, Ints]:
    """Drop small components.

    Works on runs only, never on pixels: on real masks that takes a third of the time of OpenCV's
    labels, and a seventh if areas are needed.

    Returns:
        The remaining runs, and how many components they form per mask and class.
    """
    shape = (len(sizes), 8)
    if not len(runs.start_px):
        return runs, np.zeros(shape, np.intp)
    pieces = _cut_at_columns(runs, sizes[runs.mask, 0])
    # Masks and classes are placed in a row, two columns apart, so that nothing touches across them.
    group = (runs.mask * 8 + runs.bit)[pieces.run]
    label = _label(
        pieces.column + group * (sizes[:, 1].max() + 2),
        pieces.top,
        pieces.length_px,
        int(sizes[:, 0].max()) + 2,
    )
    size_px = np.bincount(label, pieces.length_px, minlength=len(label))
    least_px = np.zeros(8, np.int64)
    least_px[: len(post_process.min_component_px)] = post_process.min_component_px
    image_px = sizes.prod(axis=1)[group // 8]
    # Computed for indices that are not roots, too.
    is_small = ~is_at_least(size_px, least_px[group % 8], image_px, engine_px)
    is_root = size_px > 0
    num = np.bincount(group[is_root & ~is_small], minlength=shape[0] * 8).reshape(shape)
    if (is_root & is_small).any():
        runs = _join(runs, pieces, np.flatnonzero(~is_small[label]), sizes[:, 0])
    return runs, num


def _label(column: Ints, top: Ints, length_px: Ints, pitch: int) -> Ints:
    """For each piece of a column, the index of the first piece of its component.

    Args:
        column: Column of each piece, in ascending order.
        top: First row of each piece.
        length_px: Number of rows of each piece.
        pitch: At least the rows of a column plus two.
    """
    below = top + length_px
    # Sorted keys with a gap between columns, so that the neighbours of a piece in the column to its
    # left form one range, [first, end).
    key = column * pitch
    left = key - pitch
    first = np.searchsorted(key + below, left + top, side="left")
    end = np.searchsorted(key + top, left + below, side="right")
    index = np.arange(len(top))
    # Each piece points to its first neighbour, so following the pointers leads to a root.
    root = _shorten(np.where(end > first, first, index))
    num_more = np.maximum(end - first - 1, 0)
    piece = np.repeat(index, num_more)
    stretch = np.cumsum(num_more) - num_more
    neighbour = first[piece] + 1 + np.arange(len(piece)) - stretch[piece]
    while True:  # if two roots touch, the larger points to the smaller
        one, other = root[piece], root[neighbour]
        differ = np.flatnonzero(one != other)
        if not len(differ):
            return root
        piece, neighbour, one, other = (a[differ] for a in (piece, neighbour, one, other))
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        root = _shorten(root)


def _shorten(root: Ints) -> Ints:
    """Follow every chain of roots to its end."""
    while True:
        further = root[root]
        if np.array_equal(further, root):
            return root
        root = further


def _join(runs: BatchRuns, pieces: _Pieces, left: Ints, height: Ints) -> BatchRuns:
    """Merge the remaining pieces into as few runs as possible."""
    run = pieces.run[left]
    mask, bit = runs.mask[run], runs.bit[run]
    start = pieces.column[left] * height[mask] + pieces.top[left]
    end = start + pieces.length_px[left]
    opens = np.ones(len(left), bool)
    opens[1:] = (start[1:] != end[:-1]) | np.diff(mask * 8 + bit).astype(bool)
    closes = np.append(opens[1:], True)[: len(left)]
    start = start[opens]
    return BatchRuns(
        (start + 1).astype(np.int32),
        (end[closes] - start).astype(np.int32),
        mask[opens],
        bit[opens],
    )


def _boxes(runs: BatchRuns, first: Ints, height: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Bounding boxes (x, y, w, h) of the groups of runs that begin at `first`."""
    if not len(first):
        return first, first, first, first
    rows = np.repeat(height, np.diff(np.append(first, len(runs.start_px))))
    start = runs.start_px.astype(np.intp) - 1
    last = start + runs.length_px - 1
    goes_on = start // rows != last // rows  # in the next column, so it touches top and bottom
    top = np.minimum.reduceat(np.where(goes_on, 0, start % rows), first)
    bottom = np.maximum.reduceat(np.where(goes_on, rows - 1, last % rows), first)
    x = start[first] // height
    right = last[np.append(first[1:], len(start)) - 1] // height
    return x, top, right - x + 1, bottom - top + 1
