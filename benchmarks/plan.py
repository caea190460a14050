"""What planning costs: time, memory and bytes on disk, of this build and of others next to it.

    python -m benchmarks.plan [CASE ...] [--build NAME=FOLDER ...] [--rounds 3]
    python -m benchmarks.plan simulated --num-keys 100000000 --latency-ms 50

Cases: `manifest` (a Parquet file of keys, sizes, etags and a tag, in no order), `no_etags` (the
same without etags, of files in a folder), `listing` (a pretend S3 server that pages are asked of),
`dates` (a manifest of 400 dates, planned one by one), and `simulated`, which is `listing` with a
size and a latency. Each plan is made in a process of its own. Builds take turns; their plans'
digests must agree, if their formats do. Seconds of CPU are compared, as the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import keep
from benchmarks.pretend_s3 import DATE

HERE = Path(__file__).parents[1]
NUM_KEYS = {"manifest": 1_000_000, "no_etags": 100_000, "listing": 200_000, "dates": 20_000}
NUM_DATES = 400
CHUNK = 1 << 18
FOLDERS = "line={line}/date={date}/{image_id}.jpg"
PARTS = "part={part}/line={line}/date={date}/{image_id}.jpg"


def write_manifest(path: Path, num_keys: int, *, has_etags: bool, num_dates: int = 1) -> None:
    """Write a manifest of keys in no order."""
    rng = np.random.default_rng(1)
    first = np.datetime64("2026-11-21" if num_dates == 1 else "2025-01-01")
    writer = None
    for start in range(0, num_keys, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, num_keys)) * 2_654_435_761 % (1 << 32)
        dates = first + numbers % num_dates
        keys = [
            f"line={number % 7 + 1}/date={date}/{number:012d}.jpg"
            for number, date in zip(numbers.tolist(), dates.tolist(), strict=True)
        ]
        columns = {
            "key": pa.array(keys),
            "size": pa.array(rng.integers(20_000, 60_000, len(keys))),
            "camera": pa.array([str(number % 5) for number in numbers.tolist()]),
        }
        if has_etags:
            text = rng.bytes(16 * len(keys)).hex()
            columns["etag"] = pa.array([text[32 * i : 32 * i + 32] for i in range(len(keys))])
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


@contextmanager
def pretend_s3(num_keys: int, latency_ms: float) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pretend_s3", str(num_keys), str(latency_ms)],
        stdout=subprocess.PIPE, text=True, cwd=HERE,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()


@contextmanager
def prepared(
    case: str, num_keys: int, latency_ms: float, folder: Path
) -> Iterator[tuple[str, str, str, str]]:
    """The images of a case, their key pattern, endpoint and date."""
    if case in ("listing", "simulated"):
        with pretend_s3(num_keys, latency_ms) as endpoint:
            yield "s3://b", PARTS, endpoint, DATE
        return
    path = folder / f"{case}.parquet"
    num_dates = NUM_DATES if case == "dates" else 1
    write_manifest(path, num_keys, has_etags=case != "no_etags", num_dates=num_dates)
    if case == "no_etags":
        for key in pq.read_table(path, columns=["key"])["key"].to_pylist():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).touch()
    yield str(path), FOLDERS, "", "all" if case == "dates" else DATE


def measure(build: Path, images: str, pattern: str, endpoint: str, date: str) -> dict[str, Any]:
    """One plan by one build."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [
                sys.executable, str(HERE / "benchmarks/plan_child.py"),
                images, pattern, endpoint, date,
            ],
            check=True, stdout=subprocess.PIPE, cwd=scratch,
            env={
                **os.environ, "PYTHONPATH": str(build), "TMPDIR": scratch,
                "PYTHONDONTWRITEBYTECODE": "1", "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
            },
        )  # fmt: skip
        return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(NUM_KEYS))
    parser.add_argument("--build", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--num-keys", type=int)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    builds = {"this": HERE, **{n: Path(f) for n, f in (b.split("=", 1) for b in options.build)}}
    figures: dict[str, Any] = {"rounds": options.rounds, "latency_ms": options.latency_ms}
    for case in options.cases:
        num_keys = options.num_keys or NUM_KEYS[case]
        with (
            tempfile.TemporaryDirectory() as folder,
            prepared(case, num_keys, options.latency_ms, Path(folder)) as what,
        ):
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
            for _ in range(options.rounds):
                for name, build in builds.items():
                    found[name].append(measure(build, *what))
                    print(case, name, found[name][-1], file=sys.stderr, flush=True)
        figures[case] = {
            name: {
                key: statistics.median(each[key] for each in rounds)
                if isinstance(rounds[0][key], (int, float))
                else rounds[0][key]
                for key in rounds[0]
            }
            for name, rounds in found.items()
        }
        for name in builds:
            if name != "this":
                ours, theirs = figures[case]["this"], figures[case][name]
                figures[case][f"times_faster_than_{name}"] = round(
                    theirs["cpu_seconds"] / ours["cpu_seconds"], 2
                )
                figures[case][f"memory_share_of_{name}"] = round(
                    ours["memory_mb"] / theirs["memory_mb"], 2
                )
    keep("plan", figures, is_series=True)


if __name__ == "__main__":
    main()
