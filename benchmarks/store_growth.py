"""What commands cost on S3 as a store grows: requests and seconds at a stated latency.

A store of N commits lies in a bucket of the tests' S3 server, behind a proxy that delays every
answer. The server's own log counts the requests. Each command is started as a user would start it:

- ``score``: a new date of four images.
- ``late image``: the same date again, with one more image.

Each line of the results is one command at one size of the store, of one build. Another build is
measured with ``--build``, the folder of its source. ``--picture`` draws lines that were measured.

    python -m benchmarks.store_growth --sizes 10 100 365 1000 --out growth.jsonl
    python -m benchmarks.store_growth --build OLD --name "28 November" --out growth.jsonl
    python -m benchmarks.store_growth --picture growth.svg --out growth.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from benchmarks import picture
from benchmarks.delayed_s3 import DelayedS3, delayed_s3
from benchmarks.machine import LOAD_BEFORE, describe_machine
from steel_batch.lake import Lake
from steel_batch.synthetic.writer import write_lake
from tests.conftest import new_bucket

HERE = Path(__file__).parent
DATE = "2026-11-21"
NUM_IMAGES = 4
SIZES = (10, 100, 365, 1000)
PATTERN = "line={line}/date={date}/{image_id}.jpg"


class Bench:
    """One build's commands on a store of some size.

    Args:
        s3: The server.
        build: The folder of the build's source.
        grown: A store in a folder, which is copied into a bucket.
        images: The date's images in a folder.
        latency_seconds: Of each answer, while a command runs.
    """

    def __init__(
        self, s3: DelayedS3, build: Path, grown: Path, images: Path, latency_seconds: float
    ) -> None:
        self._s3, self._build, self._latency_seconds = s3, build, latency_seconds
        s3.set_delay(0.0)
        bucket = new_bucket(s3.direct)
        self.store, self.images = f"{bucket}/store", f"{bucket}/images"
        self.upload(grown, "store")
        self.late = sorted(images.rglob("*.jpg"))[-1]
        self.upload(images, "images", without=self.late)
        self._folder = images

    def upload(self, folder: Path, prefix: str, *, without: Path | None = None) -> None:
        """Copy a folder into the bucket."""
        client = boto3.client("s3", endpoint_url=self._s3.direct)
        bucket = self.store.removeprefix("s3://").partition("/")[0]

        def put(path: Path) -> None:
            key = f"{prefix}/{path.relative_to(folder)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

        files = [path for path in folder.rglob("*") if path.is_file() and path != without]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, files))

    def add_late_image(self) -> None:
        """Put the image that `upload` left out."""
        client = boto3.client("s3", endpoint_url=self._s3.direct)
        bucket = self.store.removeprefix("s3://").partition("/")[0]
        key = f"images/{self.late.relative_to(self._folder)}"
        client.put_object(Bucket=bucket, Key=key, Body=self.late.read_bytes())

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a command on the store; what it cost, and what it printed."""
        self._s3.set_delay(self._latency_seconds)
        before, started = len(self._s3.requests()), time.monotonic()
        done = subprocess.run(
            [
                sys.executable, "-m", "steel_batch.cli", *arguments, "--store", self.store,
                "--endpoint-url", self._s3.url, "--output", "json",
            ],
            check=True, stdout=subprocess.PIPE, cwd=self._build, env=environment(self._build),
        )  # fmt: skip
        seconds = time.monotonic() - started
        self._s3.set_delay(0.0)
        requests = [r for r in self._s3.requests()[before:] if "/images/" not in r]
        requests = [r for r in requests if "prefix=images" not in r]
        num_log = sum("_delta_log" in request for request in requests)
        return {
            "requests": len(requests),
            "log_requests": num_log,
            "seconds": round(seconds, 2),
            "kinds": dict(sorted(kinds(requests).items())),
            "printed": json.loads(done.stdout or b"{}"),
        }

    def score(self) -> dict[str, Any]:
        """Score the date."""
        found = self.run(
            "score", "--images", self.images, "--key-pattern", PATTERN, "--date", DATE,
            "--runtime", "onnxruntime", "--num-actors", "1", "--cpus-per-actor", "1",
        )  # fmt: skip
        printed = found.pop("printed")
        steps = printed["attempt_seconds"]
        return {
            **found,
            "plan_seconds": steps.get("plan"),
            "commit_seconds": steps.get("commit"),
            "num_scored": printed["num_scored"],
        }

    def late_image(self) -> dict[str, Any]:
        """Score the date again, with one more image."""
        self.add_late_image()
        return self.score()


COMMANDS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "score": Bench.score,
    "late image": Bench.late_image,
}


def kinds(requests: list[str]) -> Counter[str]:
    """Requests by method and by what they are about."""
    found: Counter[str] = Counter()
    for request in requests:
        method, _, path = request.partition(" ")
        path, _, query = path.partition("?")
        listed = re.search(r"(?:^|&)prefix=([^&]*)", query)
        if "list-type" in query and listed:
            method, path = "LIST", listed[1].replace("%2F", "/")
        found[f"{method} {_place(path)}"] += 1
    return found


def _place(path: str) -> str:
    if "/_delta_log" in path or "_delta_log" in path:
        name = path.rstrip("/").rpartition("/")[2]
        if "checkpoint" in name:
            return (
                "_delta_log/_last_checkpoint" if name.startswith("_") else "_delta_log/checkpoint"
            )
        return "_delta_log/N.json" if name.endswith(".json") else "_delta_log"
    for place in ("predictions", "class_summaries", "quarantine", "locks", "runs", "engines"):
        if re.search(rf"(^|/){place}/", path):
            return place
    return "other"


def environment(build: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(build), "PYTHONDONTWRITEBYTECODE": "1"}


def grow(build: Path, folder: Path, first: int, last: int) -> None:
    """Commit dates to a store in a folder, by the build's own code."""
    script = HERE / "grow_store.py"
    code = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run(
        [sys.executable, "-c", code, str(script), str(folder), str(first), str(last)],
        check=True, cwd=build, env=environment(build),
    )  # fmt: skip


def measure(
    build: Path, sizes: list[int], latency_seconds: float, commands: list[str]
) -> Iterator[dict[str, Any]]:
    """Grow a store step by step, and run the commands on a copy of each size."""
    with tempfile.TemporaryDirectory() as scratch, delayed_s3(0.0) as s3:
        grown, images = Path(scratch) / "store", Path(scratch) / "images"
        write_lake(Lake(str(images)), num_images=NUM_IMAGES + 1, seed=11, lines=["1"], dates=[DATE])
        size = 0
        for wanted in sorted(sizes):
            grow(build, grown, size, wanted)
            size = wanted
            bench = Bench(s3, build, grown, images, latency_seconds)
            for command in commands:
                yield {"command": command, "num_commits": size, **COMMANDS[command](bench)}
        shutil.rmtree(grown)


def commit_of(build: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=build, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()


def draw(lines: list[dict[str, Any]], what: str, target: Path) -> None:
    """Draw cost against the number of commits, a curve per command and build.

    Args:
        lines: Measured lines; the last one counts of those for the same point.
        what: The field to draw, such as ``requests``.
        target: An SVG file.
    """
    curves: dict[tuple[str, str], dict[float, float]] = {}
    for line in lines:
        if line.get(what):
            curve = curves.setdefault((line["command"], line["build"]), {})
            curve[line["num_commits"]] = line[what]
    picture.draw(curves, x="commits in the store", y=what, target=target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--build", type=Path, default=HERE.parent)
    parser.add_argument("--name", default="this build")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "store_growth.jsonl")
    parser.add_argument("--picture", type=Path, help="Draw the lines of --out, measure nothing.")
    parser.add_argument("--field", default="requests", help="What is drawn.")
    options = parser.parse_args()
    if options.picture is not None:
        text = options.out.read_text(encoding="utf-8")
        draw([json.loads(line) for line in text.splitlines()], options.field, options.picture)
        return
    build = options.build.resolve()
    found = measure(build, options.sizes, options.latency_ms / 1000, options.commands)
    for line in found:
        full = {
            "benchmark": "store_growth",
            "invocation": shlex.join(["python", "-m", "benchmarks.store_growth", *sys.argv[1:]]),
            "build": options.name,
            **line,
            "latency_ms": options.latency_ms,
            "load_average_before": LOAD_BEFORE,
            **describe_machine(),
            "commit": commit_of(build),
        }
        with options.out.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(full) + "\n")
        print(json.dumps(full), flush=True)


if __name__ == "__main__":
    main()
