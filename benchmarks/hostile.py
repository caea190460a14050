"""What hostile images cost a run: `score` over good ones, alone and with one of each hostile kind.

Both runs are commands of their own, in turns. Seconds are those of the processors, of all processes
that a command begins, so that what else the machine does matters less; memory is the greatest sum
of what these processes hold, shared pages counted once.

    python -m benchmarks.hostile [--num-images 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.machine import keep
from steel_batch.lake import Lake
from steel_batch.synthetic.writer import write_lake
from steel_batch.tables.query import run_query
from tests import hostile

DATE = "2026-11-21"
MARK = "STEEL_BATCH_BENCHMARK"
SAMPLE_SECONDS = 0.25


def write_hostile(folder: Path) -> dict[str, str]:
    """One image of each hostile kind; its code in the quarantine by its key."""
    folder.mkdir(parents=True)
    expected = {}
    for name, (make, code) in hostile.IMAGES.items():
        (folder / f"hostile_{name}.jpg").write_bytes(make())
        expected[f"hostile_{name}"] = code or "wrong_size"
    with (folder / "hostile_sparse.jpg").open("wb") as file:
        os.truncate(file.fileno(), hostile.SPARSE_BYTES)
    return {**expected, "hostile_sparse": "too_large"}


class Watched:
    """The processes of one command, by a variable that they inherit."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._seconds: dict[str, float] = {}
        self.most_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The seconds of processors that they took."""
        self._over.set()
        self._thread.join()
        return sum(self._seconds.values())

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            num_bytes = 0
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if self._mark not in (process / "environ").read_bytes():
                        continue
                    stat = (process / "stat").read_text().rpartition(")")[2].split()
                    ticks = int(stat[11]) + int(stat[12])
                    self._seconds[f"{process.name} {stat[19]}"] = ticks / os.sysconf("SC_CLK_TCK")
                    rollup = (process / "smaps_rollup").read_text()
                    num_bytes += int(rollup.partition("\nPss:")[2].split()[0]) << 10
                except (OSError, IndexError, ValueError):
                    continue  # it has ended
            self.most_bytes = max(self.most_bytes, num_bytes)


def score(lake: Path, store: Path) -> dict[str, Any]:
    """Score a lake by a command of its own, and what that took."""
    shutil.rmtree(store, ignore_errors=True)
    mark = uuid.uuid4().hex
    watched, started = Watched(mark), time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "steel_batch.cli", "score",
            "--images", str(lake), "--store", str(store), "--date", DATE, "--max-bad", "0.05",
            "--key-pattern", "line={line}/date={date}/{image_id}.jpg",
            "--shard-images", "64", "--runtime", "onnxruntime", "--output", "json",
        ],
        check=True, stdout=subprocess.PIPE, env={**os.environ, MARK: mark},
    )  # fmt: skip
    wall_seconds = time.monotonic() - started
    return {
        **json.loads(done.stdout),
        "cpu_seconds": watched.stop(),
        "wall_seconds": wall_seconds,
        "most_bytes": watched.most_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"good": [], "hostile": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in found:
            write_lake(
                Lake(str(folder / name)),
                num_images=options.num_images, seed=16, lines=["1"], dates=[DATE],
            )  # fmt: skip
        expected = write_hostile(folder / "hostile" / "line=2" / f"date={DATE}")
        for _ in range(options.rounds):
            for name, results in found.items():
                results.append(score(folder / name, folder / "store"))
                assert results[-1]["num_scored"] == options.num_images
            rows = run_query(
                Lake(str(folder / "store")), "SELECT image_key, error_code FROM quarantine"
            ).to_pylist()
            codes = {Path(str(row["image_key"])).stem: row["error_code"] for row in rows}
            assert codes == expected, codes
    figures: dict[str, Any] = {
        "num_images": options.num_images,
        "num_hostile": len(expected),
        "rounds": options.rounds,
    }
    for name in ("cpu_seconds", "wall_seconds", "most_bytes"):
        for kind, results in found.items():
            figures[f"{kind}_{name}"] = round(statistics.median(r[name] for r in results), 1)
    for name in ("cpu_seconds", "wall_seconds"):
        figures[f"{name}_ratio"] = round(figures[f"hostile_{name}"] / figures[f"good_{name}"], 3)
    figures["more_mebibytes"] = round(
        (figures["hostile_most_bytes"] - figures["good_most_bytes"]) / (1 << 20)
    )
    keep("hostile", figures)


if __name__ == "__main__":
    main()
