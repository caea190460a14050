"""Run-lengths of a bitmask of four classes: ours in one pass, pycocotools, and plain numpy.

Each way gives the text of every class that is on the image, which is what a row holds. All ways
take the same masks in turns in one process, eight at a time, as a thread of the scoring actor does;
the medians are of single masks, in time of the processor: what else runs on the machine costs its
share of the caches and no more. Masks are realistic (synthetic strips that have a defect), dense
(every class on half of the pixels, in blocks: forty times the runs) or empty (which the pipeline
does not even look at).

    python -m benchmarks.rle [--num-masks 100] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import count, islice

import numpy as np
import numpy.typing as npt

from benchmarks.machine import keep
from steel_batch.masks.rle import BatchRuns, encode_groups, find_batch_runs
from steel_batch.synthetic import render

try:
    from pycocotools import mask as coco
except ImportError:
    coco = None

NUM_CLASSES = 4
BATCH = 8
Mask = npt.NDArray[np.uint8]


def ours(masks_HW: Sequence[Mask]) -> list[str]:
    """One pass over the bitmasks for all classes; no text for what is not there."""
    runs = ours_runs(masks_HW)
    groups = runs.mask * NUM_CLASSES + runs.bit
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    texts: list[str] = encode_groups(runs, firsts).to_pylist()
    return texts


def ours_runs(masks_HW: Sequence[Mask]) -> BatchRuns:
    """The pass alone, without the text."""
    return find_batch_runs(masks_HW, [(1 << NUM_CLASSES) - 1] * len(masks_HW))


def plain_numpy(masks_HW: Sequence[Mask]) -> list[str]:
    """The code of a hundred notebooks, a pass per class."""
    found = []
    for bitmask_HW in masks_HW:
        for c in range(NUM_CLASSES):
            pixels = (bitmask_HW >> c & 1).T.flatten()
            pixels = np.concatenate([[0], pixels, [0]])
            runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
            runs[1::2] -= runs[::2]
            found.append(" ".join(str(x) for x in runs))
    return found


def pycocotools_counts(masks_HW: Sequence[Mask]) -> object:
    """Its own compressed counts for all classes at once, which are not the text of a row."""
    return [
        coco.encode(np.asfortranarray(np.stack([m >> c & 1 for c in range(NUM_CLASSES)], axis=-1)))
        for m in masks_HW
    ]


WAYS: dict[str, Callable[[Sequence[Mask]], object]] = {
    "ours": ours,
    "ours_without_text": ours_runs,
    "plain_numpy": plain_numpy,
}
if coco is not None:
    WAYS["pycocotools_without_text"] = pycocotools_counts


def realistic(num_masks: int) -> list[Mask]:
    """The masks of synthetic strips that are not clean."""
    found = (strip for i in count() if (strip := render(29, i).bitmask_HW).any())
    return list(islice(found, num_masks))


def dense(num_masks: int) -> list[Mask]:
    """Every class on half of the pixels, in blocks of 32×64."""
    rng = np.random.default_rng(29)
    cells = rng.integers(0, 1 << NUM_CLASSES, (num_masks, 8, 25), np.uint8)
    return list(cells.repeat(32, axis=1).repeat(64, axis=2))


def measure(masks: list[Mask], rounds: int) -> dict[str, float]:
    """Median milliseconds of one mask, by way.

    The ways take turns on each eight, and in being the first, which finds them out of the cache.
    """
    batches = [masks[i : i + BATCH] for i in range(0, len(masks), BATCH)]
    assert ours(batches[0]) == [text for text in plain_numpy(batches[0]) if text]
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    ways = list(WAYS.items())
    for turn in range(rounds + 1):
        for i, batch in enumerate(batches):
            first = (turn + i) % len(ways)
            for name, way in ways[first:] + ways[:first]:
                started = time.process_time()
                way(batch)
                if turn:  # the first one warms up
                    taken[name].append((time.process_time() - started) / len(batch))
    return {name: round(statistics.median(times) * 1e3, 4) for name, times in taken.items()}


def describe(masks: list[Mask]) -> dict[str, float]:
    """What is on a set of masks."""
    runs = [len(ours_runs([mask]).start_px) for mask in masks]
    pixels = [np.count_nonzero(mask) / mask.size for mask in masks]
    return {
        "median_runs": statistics.median(runs),
        "median_share_of_pixels": round(float(statistics.median(pixels)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-masks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sets = {
        "realistic": realistic(options.num_masks),
        "dense": dense(max(1, options.num_masks // 5)),
        "empty": [np.zeros((256, 1600), np.uint8)] * options.num_masks,
    }
    figures = {
        "shape": [256, 1600],
        "num_classes": NUM_CLASSES,
        "masks_at_once": BATCH,
        "num_masks": {name: len(masks) for name, masks in sets.items()},
        "rounds": options.rounds,
        "milliseconds": {name: measure(masks, options.rounds) for name, masks in sets.items()},
        "masks": {name: describe(masks) for name, masks in sets.items()},
        "pycocotools": version("pycocotools") if coco is not None else "not installed",
    }
    keep("rle", figures)


if __name__ == "__main__":
    main()
