"""From the command to the first shard's receipt: `score`, alone and on a cluster that is running.

Beside it, in turns: an earlier build if `--before` gives its folder, and `benchmarks.plain ray`,
which is Ray Data as its documentation shows it, until its first rows are written. Times are those
of files: from the start of the process to the first receipt, or the first Parquet file. A backfill
of two dates shows how long after the first date's last receipt the second date's first one comes.
Every side has its bytecode, as after an installation, and an earlier build has a running cluster of
its own, whose processes import it.

    python -m benchmarks.startup [--rounds 3] [--before FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import keep
from steel_batch.lake import Lake
from steel_batch.synthetic.writer import write_lake

ROOT = Path(__file__).parents[1]
DATES = ("2026-11-20", "2026-11-21")
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
HEAD = """
import ray, sys
ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print("at", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def environment(build: Path) -> dict[str, str]:
    """Where Python imports from; the clusters are this benchmark's own and need no token."""
    kept = {name: value for name, value in os.environ.items() if name != NO_BYTECODE}
    return {**kept, "PYTHONPATH": str(build), "RAY_AUTH_MODE": "disabled"}


def compile_build(build: Path) -> None:
    """Write the bytecode of a build, as installing it does.

    Without it, each process compiles what it imports, and a build in a folder would be compared
    with libraries that were installed.
    """
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "steel_batch", "benchmarks"],
        check=True, cwd=build, env=environment(build),
    )  # fmt: skip


def command(name: str, lake: Path, store: Path, *flags: str) -> list[str]:
    """`score` or `backfill` of the lake."""
    return [
        sys.executable, "-m", "steel_batch.cli", name, "--images", str(lake),
        "--store", str(store), "--key-pattern", "line={line}/date={date}/{image_id}.jpg",
        "--output", "json", *flags,
    ]  # fmt: skip


def run(words: Sequence[str], build: Path) -> tuple[float, str]:
    """Run a command; return when it began and what it printed."""
    began = time.time()
    done = subprocess.run(
        words,
        check=True,
        cwd=build,
        env=environment(build),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return began, done.stdout


def receipts(store: Path, date: str = "") -> list[float]:
    """When each receipt of a date's run was written, in order."""
    files = store.glob(f"runs/{date}*/receipts/*.json")
    return sorted(file.stat().st_mtime for file in files)


def score_once(
    build: Path, lake: Path, folder: Path, flags: Sequence[str]
) -> tuple[float, Mapping[str, float]]:
    """Seconds to the first receipt of `score`, and its own account of them."""
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    began, printed = run(command("score", lake, store, "--date", DATES[0], *flags), build)
    return receipts(store)[0] - began, json.loads(printed)["attempt_seconds"]


def plain_once(lake: Path, folder: Path, flags: Sequence[str]) -> float:
    """Seconds to the first rows of Ray Data as its documentation shows it."""
    out = folder / "rows"
    shutil.rmtree(out, ignore_errors=True)
    of_date = str(lake / "line=1" / f"date={DATES[0]}")
    words = [sys.executable, "-m", "benchmarks.plain", "ray", of_date, str(out), *flags]
    began, _ = run(words, ROOT)
    return min(file.stat().st_mtime for file in out.rglob("*.parquet")) - began


def second_date(build: Path, lake: Path, folder: Path) -> float:
    """Seconds from the last receipt of a backfill's first date to the first one of its second."""
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    run(command("backfill", lake, store, "--dates-from-lake"), build)
    first, second = (receipts(store, date) for date in DATES)
    return second[0] - first[-1]


@contextlib.contextmanager
def running_cluster(build: Path = ROOT) -> Iterator[str]:
    """The address of a cluster of this machine, with a build that its processes import."""
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment(build),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert head.stdout is not None
    with head:
        address = next(line.split()[1] for line in head.stdout if line.startswith("at "))
        yield address
        assert head.stdin is not None
        head.stdin.close()


def measure(
    lake: Path, folder: Path, rounds: int, before: Path | None
) -> tuple[dict[str, list[float]], dict[str, list[Mapping[str, float]]]]:
    """Seconds of each side and round, and what `score` says of its own, cold and warm."""
    builds = {"score": ROOT} | ({} if before is None else {"before": before})
    for build in builds.values():
        compile_build(build)
    found: dict[str, list[float]] = {}
    steps: dict[str, list[Mapping[str, float]]] = {"cold": [], "warm": []}

    def add(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(round(seconds, 2))
        print(f"{name:24} {seconds:6.2f} s", file=sys.stderr)

    for _ in range(rounds):
        for name, build in builds.items():
            seconds, own = score_once(build, lake, folder, [])
            add(f"{name}_cold", seconds)
            if build == ROOT:
                steps["cold"].append(own)
        add("ray_data_cold", plain_once(lake, folder, []))
    with contextlib.ExitStack() as clusters:
        joined = {
            build: ["--ray-address", clusters.enter_context(running_cluster(build))]
            for build in builds.values()
        }
        for number in range(rounds + 1):
            warm = {}
            for name, build in builds.items():
                warm[f"{name}_warm"], own = score_once(build, lake, folder, joined[build])
                if build == ROOT and number:
                    steps["warm"].append(own)
            warm["ray_data_warm"] = plain_once(lake, folder, joined[ROOT])
            for name, seconds in warm.items():
                if number:  # the first round starts Ray Data's own actors, which stay
                    add(name, seconds)
    for _ in range(rounds):
        for name, build in builds.items():
            add(f"{name}_second_date", second_date(build, lake, folder))
    return found, steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="folder of an earlier build")
    args: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        write_lake(
            Lake(str(lake)), num_images=args.num_images, seed=11, lines=["1"], dates=list(DATES)
        )
        found, steps = measure(lake, Path(folder), args.rounds, args.before)
    median = {name: round(statistics.median(values), 2) for name, values in found.items()}
    keep(
        "startup",
        {
            "num_images": args.num_images,
            "rounds": args.rounds,
            **{f"{name}_seconds": value for name, value in median.items()},
            "cold_to_ray_data": round(median["score_cold"] / median["ray_data_cold"], 2),
            "warm_to_ray_data": round(median["score_warm"] / median["ray_data_warm"], 2),
            "all_seconds": found,
            "steps_of_score_cold": steps["cold"],
            "steps_of_score_warm": steps["warm"],
        },
    )


if __name__ == "__main__":
    main()
