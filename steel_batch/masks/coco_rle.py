"""COCO's run-lengths: the same pixels as ours, counted otherwise.

Ours name the runs of a mask, by start (from 1) and length, down each column and then right. COCO's
go the same way and name the length of every stretch in turns, first of pixels outside the mask.
Compressed, each number is written as its difference from the one two before it, in groups of five
bits, the lowest first, as printable characters.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.masks.rle import Runs

Ints = npt.NDArray[np.int64]

GROUP_BITS: Final = 5
SIGN_BIT: Final = 0x10
MORE_BIT: Final = 0x20
FIRST_CHARACTER: Final = 48
MAX_GROUPS: Final = 7
"""What 32 bits and a sign take."""


def coco_counts(runs: Runs, num_pixels: int) -> Ints:
    """The lengths of the stretches of a mask, outside and inside in turns.

    Runs that touch become one stretch. The last number is not 0.
    """
    start = runs.start_px.astype(np.int64) - 1
    end = start + runs.length_px
    opens = np.append(True, start[1:] != end[:-1])[: len(start)]
    closes = np.append(opens[1:], True)[: len(start)]
    edges = np.empty(2 * int(opens.sum()) + 2, np.int64)
    edges[0], edges[-1] = 0, num_pixels
    edges[1:-1:2], edges[2:-1:2] = start[opens], end[closes]
    counts = np.diff(edges)
    return counts if counts[-1] else counts[:-1]


def compress_counts(counts: Ints) -> str:
    """Those lengths as COCO's compressed text."""
    left = counts.copy()
    left[3:] -= counts[1:-2]
    groups = np.zeros((len(left), MAX_GROUPS), np.uint8)
    is_used = np.zeros((len(left), MAX_GROUPS), bool)
    goes_on = np.ones(len(left), bool)
    for place in range(MAX_GROUPS):
        is_used[:, place] = goes_on
        group = left & (2 * SIGN_BIT - 1)
        left >>= GROUP_BITS
        more = np.where(group & SIGN_BIT, left != -1, left != 0)
        groups[:, place] = group + more * MORE_BIT + FIRST_CHARACTER
        goes_on &= more
        if not goes_on.any():
            break
    return groups[is_used].tobytes().decode("ascii")
