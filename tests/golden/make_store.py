"""Makes the golden store: what the build of 28 November 2026 wrote of a small lake.

Run it with that build, on Linux as root, in a folder whose path may be seen in the store::

    git worktree add --detach ../old 89263a3
    cd ../old && unshare --uts sh -c 'hostname node-1 &&
        PYTHONPATH=. python3 ../main/tests/golden/make_store.py /srv/steel'

The run of `INTERRUPTED` is killed when its first receipts are there, so it is unfinished.

The lake is drawn anew wherever it is needed (`draw_lake`): same bytes, same times of writing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

PATTERN = "line={line}/date={date}/{camera}-{image_id}.png"
DATES = ("2026-11-20", "2026-11-21")
INTERRUPTED = "2026-11-22"
"""A date whose run was killed."""
NUM_IMAGES = 12
NUM_LATE = 4
WRITTEN_AT = 1_795_000_000
"""Seconds since 1970: an image's etag has its time of writing."""


def draw_image(seed: int) -> bytes:
    """A dark image as PNG; two of three have a bright block, which the tiny engine finds."""
    rng = np.random.default_rng(seed)
    image_HW = rng.integers(40, 70, (64, 160)).astype(np.uint8)
    if seed % 3:
        y, x = rng.integers(0, 44), rng.integers(0, 120)
        image_HW[y : y + 15, x : x + 5 + seed % 30] = 150 + 20 * (seed % 5)
    return bytes(cv2.imencode(".png", image_HW)[1])


def key_of(number: int, date: str) -> str:
    """Where the nth image of a date lies."""
    return f"line={1 + number % 2}/date={date}/{'top' if number % 4 < 2 else 'low'}-im{number}.png"


def write_image(lake: Path, key: str, data: bytes, *, at: int = WRITTEN_AT) -> None:
    """Put one image, with its time of writing."""
    path = lake / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (at, at))


def draw_lake(lake: Path, *, late: bool = True) -> None:
    """The images that the golden store has rows and entries of.

    Args:
        lake: The folder.
        late: Also those that came late on the first date, and the changed one of the second.
    """
    for offset, date in enumerate(DATES):
        for number in range(NUM_IMAGES):
            data = draw_image(100 * offset + number)
            if number == 5:
                data = data[: len(data) // 2] if offset else b""
            write_image(lake, key_of(number, date), data)
    if late:
        for number in range(NUM_IMAGES, NUM_IMAGES + NUM_LATE):
            write_image(lake, key_of(number, DATES[0]), draw_image(number))
        write_image(lake, key_of(7, DATES[1]), draw_image(998), at=WRITTEN_AT + 60)


def draw_interrupted(lake: Path) -> None:
    """The images of the date whose run was killed."""
    for number in range(NUM_IMAGES):
        write_image(lake, key_of(number, INTERRUPTED), draw_image(200 + number))


def score_command(root: Path, shard_images: int) -> list[str]:
    """The command that scores, but for the date."""
    return [
        sys.executable, "-m", "steel_batch.cli", "score", "--images", str(root / "lake"),
        "--key-pattern", PATTERN, "--engine", str(root / "engine"), "--store", str(root / "store"),
        "--max-bad", "0.5", "--runtime", "onnxruntime", "--shard-images", str(shard_images),
        "--num-actors", "1",
    ]  # fmt: skip


def score_until_killed(root: Path) -> None:
    """Begin the run of `INTERRUPTED` in shards of one image, and kill it at its first receipt."""
    draw_interrupted(root / "lake")
    command = [*score_command(root, 1), "--date", INTERRUPTED]
    with subprocess.Popen(command) as process:
        receipts = f"runs/{INTERRUPTED}-*/receipts/*.json"
        while process.poll() is None and not any((root / "store").glob(receipts)):
            time.sleep(0.001)
        process.kill()
    if any((root / "store").glob(f"runs/{INTERRUPTED}-*/result.json")):
        raise SystemExit("the run was over before it was killed: try again")


def main(root: Path) -> None:
    """Draw the lake, write the engine and score: two dates, a late run, a changed image, a kill."""
    from tests.tiny_engine import write_tiny_engine

    write_tiny_engine(root / "engine", precisions=("fp32", "fp16"))
    score = score_command(root, 8)
    draw_lake(root / "lake", late=False)
    for date in DATES:
        subprocess.run([*score, "--date", date], check=True)
    draw_lake(root / "lake")
    subprocess.run([*score, "--date", DATES[0]], check=True)
    subprocess.run([*score, "--date", DATES[1], "--rescore-changed"], check=True)
    score_until_killed(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
