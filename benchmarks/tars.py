"""What planning from tars without an index costs on S3: requests, bytes and time.

`plan` is run as a user runs it, in turns with that of another checkout, against a server that
answers each request after `--latency` seconds and counts what it is asked. The tars are sparse
files: their headers are real, and their images are holes.

    git worktree add ../before 89263a3
    python -m benchmarks.tars [--shapes 100000x20000x1,100000x20000x100] [--against ../before]

A shape is the number of images, the bytes of each and the number of tars. The other checkout plans
only shapes of at most `--most-against` images, as it makes a request for each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.cli import ROOT
from benchmarks.folder_s3 import KEYS, FolderS3, folder_s3
from benchmarks.machine import keep

SHAPES: Final = "2000x20000x1,100000x20000x1,100000x20000x100,100000x100000x1,100000x100000x100"
DATE: Final = "2026-11-21"
SPREAD: Final = 0.5
"""Sizes of images vary by this part of the stated one, up and down."""


def write_tars(folder: Path, num_images: int, image_bytes: int, num_tars: int) -> int:
    """Write sparse tars; the bytes that they state together."""
    rng = random.Random(5)
    folder.mkdir(parents=True)
    num_bytes = 0
    for number in range(num_tars):
        with (folder / f"{number:05d}.tar").open("wb") as file:
            for i in range(number, num_images, num_tars):
                info = tarfile.TarInfo(f"line=1/im{i:07d}.jpg")
                info.size = int(image_bytes * rng.uniform(1 - SPREAD, 1 + SPREAD))
                file.write(info.tobuf(tarfile.GNU_FORMAT))
                file.seek(-(-info.size // 512) * 512, os.SEEK_CUR)
            file.write(bytes(1024))
            num_bytes += file.tell()
    return num_bytes


def plan(checkout: Path, bucket: str, server: FolderS3, store: Path) -> dict[str, float]:
    """Seconds, CPU seconds and memory of one `plan`, and what it asked of the server."""
    command = [
        sys.executable, "-m", "steel_batch.cli", "plan", "--images", f"s3://{bucket}",
        "--endpoint-url", server.url, "--key-pattern", "*.tar#line={line}/{image_id}.jpg",
        "--store", str(store), "--engine", "demo", "--date", DATE, "--output", "json",
    ]  # fmt: skip
    server.take_counts()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=checkout, check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | KEYS | {"PYTHONPATH": str(checkout)},
    )  # fmt: skip
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    counts = server.take_counts()
    return {
        "images": found["num_images"],
        "seconds": round(seconds, 2),
        "cpu_seconds": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2
        ),
        "requests": counts["requests"],
        "most_at_once": counts["most_at_once"],
        "mb_read": round(counts.get("bytes", 0) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds of each request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--most-against", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for text in options.shapes.split(","):
            num_images, image_bytes, num_tars = map(int, text.split("x"))
            num_bytes = write_tars(folder / text, num_images, image_bytes, num_tars)
            checkouts = {"ours": ROOT}
            if options.against is not None and num_images <= options.most_against:
                checkouts["against"] = options.against.resolve()
            rounds: dict[str, list[dict[str, float]]] = {side: [] for side in checkouts}
            with folder_s3(folder, options.latency) as server:
                for _ in range(options.rounds):
                    for side, checkout in checkouts.items():
                        rounds[side].append(plan(checkout, text, server, folder / "store"))
            figures = {
                side: {name: statistics.median(each[name] for each in found) for name in found[0]}
                for side, found in rounds.items()
            }
            measured = {"shape": text, "mb": round(num_bytes / 1e6, 1), **figures}
            settings = {"latency_seconds": options.latency, "rounds": options.rounds}
            keep("tars", {**settings, **measured}, is_series=True)


if __name__ == "__main__":
    main()
