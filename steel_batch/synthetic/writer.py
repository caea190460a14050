"""Writes a synthetic lake: images by line and date, and one `train.csv` with their masks."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from steel_batch import interrupt
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.lake.files import working_in
from steel_batch.layout import check_date, check_name
from steel_batch.masks.rle import encode_runs, find_runs
from steel_batch.synthetic import CLASSES, render

JPEG_QUALITY = 95
"""Gives files of about 100 KB, like real ones."""
LABELS = "train.csv"
IMAGES_PER_TASK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticLake:
    """What was written, and how many masks of each class."""

    out: str
    num_images: int
    num_defective: int
    num_masks: tuple[int, ...]
    """Number of masks per class."""
    bytes: int


def write_lake(
    lake: Lake,
    *,
    num_images: int,
    seed: int,
    lines: Sequence[str],
    dates: Sequence[str],
    on_images: Callable[[int], None] = lambda _: None,
    num_processes: int | None = None,
) -> SyntheticLake:
    """Write ``line=…/date=…/<image_id>.jpg`` and `train.csv` (``ImageId,ClassId,EncodedPixels``).

    Images are distributed over lines and dates in turn. The labels are written last, so a lake with
    labels is complete. After an interruption, the same call writes the same files again.

    Args:
        lake: Where to write.
        num_images: Number of images, 1 or more.
        seed: Seed of the set.
        lines: Names of lines.
        dates: YYYY-MM-DD.
        on_images: Called with the number of images of each finished part.
        num_processes: How many processes draw at once; None uses every core.

    Raises:
        ConfigError: A number, line or date is invalid, or the place already has labels.
        LakeError: The lake cannot be written.
    """
    if num_images < 1 or seed < 0:
        raise ConfigError(
            f"--num-images is {num_images} and --seed is {seed}: --num-images must be 1 or more, "
            "and --seed 0 or more."
        )
    if not lines or not dates:
        raise ConfigError("--lines and --dates need at least one entry each.")
    for line in lines:
        check_name(line, what="line")
    for date in dates:
        check_date(date)
    if lake.stat(LABELS) is not None:
        raise ConfigError(
            f"{lake.uri(LABELS)} already exists, so --out holds a set of images. Choose an empty "
            "place with --out, or delete that set."
        )
    places = [f"line={line}/date={date}" for line in lines for date in dates]
    tasks = [
        (lake, seed, range(start, min(start + IMAGES_PER_TASK, num_images)), places)
        for start in range(0, num_images, IMAGES_PER_TASK)
    ]
    num_processes = min(num_processes or os.cpu_count() or 1, len(tasks))
    parts = []
    if num_processes == 1:
        for task in tasks:
            parts.append(_write_images(*task))
            on_images(len(task[2]))
    else:
        with (
            tempfile.TemporaryDirectory(prefix="steel-batch-") as own,
            contextlib.ExitStack() as end,
        ):
            # They would import what lies in the folder of this one.
            with interrupt.starting_processes(), working_in(Path(own)):
                pool = end.enter_context(
                    ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"))
                )
                # Not around the pool as well: what it starts first, its tracker of semaphores,
                # unblocks Ctrl-C in this thread.
                with interrupt.ctrl_c_blocked():
                    done = pool.map(_write_images, *zip(*tasks, strict=True))
            try:
                for task, part in zip(tasks, done, strict=True):
                    parts.append(part)
                    on_images(len(task[2]))
                    interrupt.check()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    rows = [row for part in parts for row in part[1]]
    lake.write(LABELS, _csv(rows))
    counts = [sum(row[1] == c + 1 for row in rows) for c in range(len(CLASSES))]
    return SyntheticLake(
        out=lake.url,
        num_images=num_images,
        num_defective=len({row[0] for row in rows}),
        num_masks=tuple(counts),
        bytes=sum(part[0] for part in parts),
    )


def image_id(seed: int, index: int) -> str:
    """The id of one image; unique across sets."""
    return f"s{seed:04d}_{index:07d}"


def _write_images(
    lake: Lake, seed: int, indices: range, places: Sequence[str]
) -> tuple[int, list[tuple[str, int, str]]]:
    cv2.setNumThreads(1)
    num_bytes, rows = 0, []
    for index in indices:
        strip = render(seed, index)
        name = f"{image_id(seed, index)}.jpg"
        data = encode_jpeg(strip.image_HW)
        lake.write(f"{places[index % len(places)]}/{name}", data)
        num_bytes += len(data)
        present = [c for c in range(len(CLASSES)) if (strip.bitmask_HW >> c & 1).any()]
        for c, runs in zip(present, find_runs(strip.bitmask_HW, present), strict=True):
            rows.append((name, c + 1, encode_runs(runs)))
    return num_bytes, rows


def encode_jpeg(image_HW: np.ndarray) -> bytes:
    """Encode a gray JPEG as the cameras do."""
    _, data = cv2.imencode(".jpg", image_HW, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data)


def _csv(rows: Sequence[tuple[str, int, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("ImageId", "ClassId", "EncodedPixels"))
    writer.writerows(sorted(rows))
    return text.getvalue().encode()
