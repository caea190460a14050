"""What reading a whole store costs as it grows, in a folder or on S3 behind a delaying proxy.

`runs list`, `gc --dry-run`, `verify` and `backfill --recheck` are run as a user runs them, as
processes, in turns with those of another checkout. Printed for each size: requests, wall and CPU
seconds (of the process and its children) and peak memory; medians of the rounds.

A store is made once for each size, by the code that a run calls, without pixels: one run a date,
`--images` rows each on two lines. The images are a few bytes, as rechecking a date reads none of
them; their etags are not those of the rows, so each is counted as changed. Stores are kept in
`--keep` for further rounds, and copied into a bucket before each measurement.

    git worktree add ../before 89263a3
    python -m benchmarks.store_reads --against ../before [--sizes 50,100,365,1000] [--places s3]
    python -m benchmarks.store_reads --draw      # docs/images/store_reads_*.svg from the results
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.cli import _CHILD, ROOT
from benchmarks.delayed_s3 import DelayedS3, delayed_s3
from benchmarks.machine import LOAD_BEFORE, RESULTS, describe_machine
from benchmarks.picture import draw

PATTERN: Final = "line={line}/date={date}/{image_id}.jpg"
LAST: Final = datetime.date(2026, 11, 21)
UPLOADS_AT_ONCE: Final = 8
RECHECK: Final = [
    "backfill", "--recheck", "--dates-from-lake", "--key-pattern", PATTERN, "--engine", "demo",
    "--output", "json",
]  # fmt: skip
_MAKE: Final = """
import json, sys
from pathlib import Path
from steel_batch.lake import Lake
from tests.made_up_run import begin, finish, merge, score_shards
try:
    from steel_batch.registry.versions import load_engine
except ImportError:  # of 28 November 2026 and before
    from steel_batch.registry import load_engine
folder, dates, num_images = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
engine, store = load_engine("demo", store=None).card.name, Lake(str(folder / "store"))
for date in dates:
    keys = [f"line={n % 2 + 1}/date={date}/im{n:05d}.jpg" for n in range(num_images)]
    for key in keys:
        path = folder / "lake" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    record = begin(store, keys, date=date, engine=engine, shard_images=64)
    score_shards(store, record)
    finish(store, record, merge(store, record))
"""
COMMANDS: Final = {
    "runs list": ["runs", "list", "--output", "json"],
    "gc --dry-run": ["gc", "--dry-run", "--output", "json"],
    "verify": ["verify", "--output", "json"],
    "backfill --recheck": RECHECK,
}


def make(checkout: Path, folder: Path, num_dates: int, num_images: int) -> None:
    """Make a lake and a store with one committed run a date, unless they are there."""
    if (folder / "made").exists():
        return
    dates = [str(LAST - datetime.timedelta(days=num)) for num in reversed(range(num_dates))]
    subprocess.run(
        [sys.executable, "-c", _MAKE, str(folder), json.dumps(dates), str(num_images)],
        check=True, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    (folder / "made").touch()


def upload(folder: Path, bucket: str, server: DelayedS3) -> None:
    """Copy a lake and its store into a bucket, without the delay."""
    import boto3

    client = boto3.client("s3", endpoint_url=server.direct)
    client.create_bucket(Bucket=bucket)
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]

    def put(path: Path) -> None:
        key = path.relative_to(folder).as_posix()
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        list(pool.map(put, files))


def run(checkout: Path, words: list[str]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of one command of a checkout."""
    command = [sys.executable, "-m", "steel_batch.cli", *words]
    environment = json.dumps({"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"})
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(command), environment],
        capture_output=True, text=True, check=True, cwd=checkout,
    )  # fmt: skip
    cpu, wall, mib, code = json.loads(done.stdout)
    assert code == 0, (checkout, words, code)
    return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_mib": mib}


def measure(
    checkout: Path, name: str, folder: Path, bucket: str | None, server: DelayedS3 | None
) -> dict[str, Any]:
    """The figures of one command on one store."""
    words = list(COMMANDS[name])
    place = str(folder)
    if server is not None:
        place = f"s3://{bucket}"
        words += ["--endpoint-url", server.url]
        server.take_counts()
    words += ["--store", f"{place}/store"]
    if name.startswith("backfill"):
        words += ["--images", f"{place}/lake"]
    figures: dict[str, Any] = run(checkout, words)
    if server is not None:
        figures["requests"] = sum(server.take_counts().values())
    return figures


def add_line(figures: dict[str, Any]) -> None:
    """Print a measured line, and add it to the results."""
    text = json.dumps(
        {
            "benchmark": "store_reads",
            "argv": shlex.join(["python", "-m", "benchmarks.store_reads", *sys.argv[1:]]),
            **figures,
            "load_average_before": LOAD_BEFORE,
            **describe_machine(),
        }
    )
    print(text, flush=True)
    with (RESULTS / "store_reads.jsonl").open("a") as results:
        results.write(text + "\n")


def draw_results() -> None:
    """Draw the newest line of each command and size: requests on S3, CPU seconds in a folder."""
    newest: dict[tuple[str, str, int, str], dict[str, Any]] = {}
    for text in (RESULTS / "store_reads.jsonl").read_text().splitlines():
        line = json.loads(text)
        for side in ("ours", "against"):
            if side in line:
                newest[line["place"], line["command"], line["dates"], side] = line[side]
    for place, what in (("s3", "requests"), ("folder", "cpu_seconds")):
        curves: dict[tuple[str, str], dict[float, float]] = {}
        for (its_place, name, size, side), figures in sorted(newest.items()):
            if its_place == place:
                variant = "now" if side == "ours" else "28 November"
                curves.setdefault((name, variant), {})[size] = figures[what]
        if curves:
            target = ROOT / "docs/images" / f"store_reads_{place}_{what}.svg"
            where = "on S3" if place == "s3" else "in a folder"
            y = f"{what.replace('_', ' ')} {where}"
            draw(curves, x="dates in the store", y=y, target=target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--against-sizes", default="50,100,365", help="sizes it is measured at")
    parser.add_argument("--sizes", default="50,100,365,1000", help="dates")
    parser.add_argument("--images", type=int, default=20, help="images of a date")
    parser.add_argument("--places", default="folder,s3")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--delay", type=float, default=0.03, help="seconds of each request to S3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for the stores that are made")
    parser.add_argument("--draw", action="store_true", help="only draw the results")
    options = parser.parse_args()
    if options.draw:
        draw_results()
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        kept = (options.keep or Path(scratch)).resolve()
        for place in options.places.split(","):
            server = stack.enter_context(delayed_s3(options.delay)) if place == "s3" else None
            for size in map(int, options.sizes.split(",")):
                checkouts = {"ours": ROOT}
                if options.against is not None and str(size) in options.against_sizes.split(","):
                    checkouts["against"] = options.against.resolve()
                # A store for each: an earlier build refuses the formats of a later one.
                stores = {
                    side: (kept / f"{size}x{options.images}-{side}", f"{side}-{size}")
                    for side in checkouts
                }
                for side, (folder, bucket) in stores.items():
                    make(checkouts[side], folder, size, options.images)
                    if server is not None:
                        upload(folder, bucket, server)
                for name in options.commands.split(","):
                    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in checkouts}
                    for _ in range(options.rounds):
                        for side, checkout in checkouts.items():
                            rounds[side].append(measure(checkout, name, *stores[side], server))
                    figures = {
                        side: {
                            what: round(statistics.median(each[what] for each in found), 2)
                            for what in found[0]
                        }
                        for side, found in rounds.items()
                    }
                    add_line(
                        {
                            "place": place, "command": name, "dates": size,
                            "images": options.images, "rounds": options.rounds,
                            "delay_seconds": options.delay if server is not None else None,
                            **figures,
                        }
                    )  # fmt: skip


if __name__ == "__main__":
    main()
