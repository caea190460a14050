"""A night, simulated: everything that a run does except for pixels, at several sizes.

The planner, plan, receipts, staged rows, merge, commits, summary, quarantine and result are those
of a run, called in its order. Only Ray, the images and the engine are made up: a pretend engine
takes the place of reading, decoding and inference and answers at once, with defects for two images
of five and one image of a thousand that cannot be decoded. Two processes score and merge, as actors
and tasks do; the driver is a process of its own for each size.

The store is a folder, or with `--latency` the tests' S3 server behind a proxy that holds each
request back. The last stage plans the date again with one late image, which reads every row's key.

    python -m benchmarks.night [--images 100000,300000,1000000] [--latency 0.03]

Printed for each size and stage: seconds and CPU seconds per million images (of the driver, and of
all processes), requests of the store per thousand images, and the driver's largest memory. A stage
that grows with the size is marked.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import boto3
import pyarrow as pa

from benchmarks.delayed_s3 import DelayedS3, delayed_s3
from benchmarks.machine import keep
from benchmarks.pretend_scoring import (
    DATE,
    PATTERN,
    answers,
    merge_cut,
    score_group,
    write_manifest,
)
from steel_batch import layout
from steel_batch.config import ScoreConfig
from steel_batch.lake import Lake
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.prepare import plan_date
from steel_batch.pipeline.scope import open_scope
from steel_batch.pipeline.states import ToCommit, ToScore
from steel_batch.runs.events import read_events
from steel_batch.scoring.shard_result import ShardResult
from steel_batch.tables.file_lists import save_files
from steel_batch.tables.merge import cut_files

NUM_WORKERS: Final = 2
SAMPLE_SECONDS: Final = 0.2
START_SECONDS: Final = 1.0
"""Long enough that each worker starts for one of these rests."""
BUCKET: Final = "s3://night"
GROWING: Final = ("cpu_seconds_per_million", "requests_per_thousand", "driver_mb")
"""What is compared; the others depend on the clock, as events are written every 10 s."""
GROWS: Final = 1.5
"""A stage grows if a measure at the largest size is more than this many times that of the smallest;
fixed costs make it fall instead."""


@dataclass(slots=True)
class Meters:
    """What each stage costs."""

    num_images: int
    scratch: Path
    server: DelayedS3 | None
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    worker_cpu: float = 0.0
    peak_mb: float = 0.0
    disk_bytes: int = 0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block."""
        self._count()
        self.worker_cpu, self.peak_mb, self.disk_bytes = 0.0, _resident_mb(), 0
        began, cpu = time.perf_counter(), time.process_time()
        over = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(over,))
        sampler.start()
        try:
            yield
        finally:
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            over.set()
            sampler.join()
        millions = self.num_images / 1e6
        self.stages[name] = {
            "seconds_per_million": round(seconds / millions, 2),
            "driver_cpu_seconds_per_million": round(cpu / millions, 2),
            "cpu_seconds_per_million": round((cpu + self.worker_cpu) / millions, 2),
            "driver_mb": round(self.peak_mb),
            "scratch_bytes_per_image": round(self.disk_bytes / self.num_images, 1),
            "requests_per_thousand": round(self._count() / self.num_images * 1000, 2),
        }
        print(f"{self.num_images:,} {name}: {self.stages[name]}", file=sys.stderr, flush=True)

    def _sample(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_SECONDS):
            self.peak_mb = max(self.peak_mb, _resident_mb())
            self.disk_bytes = max(self.disk_bytes, _bytes_under(self.scratch))

    def _count(self) -> int:
        return 0 if self.server is None else sum(self.server.take_counts().values())


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _bytes_under(folder: Path) -> int:
    num_bytes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                num_bytes += (Path(root) / name).stat().st_size
    return num_bytes


def _score(state: ToScore, workers: Executor, meters: Meters) -> None:
    """Score all shards in the workers and count their results, as the driver of a run does."""
    work, store = state.work, state.attempt.scope.store
    todo = list(work.pending.items())[::-1]
    running: set[Future[tuple[pa.Table, float]]] = set()
    while todo or running:
        while todo and len(running) < 2 * NUM_WORKERS:
            group, numbers = todo.pop()
            running.add(
                workers.submit(score_group, store, work.run_id, work.plan_digest, group, numbers)
            )
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for answered in done:
            wires, cpu = answered.result()
            meters.worker_cpu += cpu
            for result in ShardResult.from_wire(wires):
                state.take(result)
                state.attempt.report_progress("scoring")


def _merge(state: ToScore, workers: Executor, meters: Meters) -> ToCommit:
    """Merge in the workers, as `ToScore.merge` does on a cluster."""
    attempt = state.attempt
    attempt.check_bad()
    store, run_id = attempt.scope.store, attempt.record.run_id
    cuts = cut_files(attempt.tally.staged_bytes, attempt.scope.config.merge_bytes)
    running = [
        workers.submit(merge_cut, store, run_id, number, shards)
        for number, shards in enumerate(cuts)
    ]
    files = []
    for merged in running:
        file, cpu = merged.result()
        files.append(file)
        meters.worker_cpu += cpu
        attempt.lease.check()
    save_files(store, run_id, layout.MERGED, files)
    attempt.events.add("merged", num_files=len(files))
    return ToCommit(attempt, files)


def night(num_images: int, folder: Path, store: str, server: DelayedS3 | None) -> dict[str, Any]:
    """Plan, score, merge and commit one date in this process and its workers."""
    lake, scratch = folder / "lake", folder / "scratch"
    lake.mkdir()
    scratch.mkdir()
    os.environ["TMPDIR"] = str(scratch)
    tempfile.tempdir = None
    manifest = lake / "images.parquet"
    _in_another_process(write_manifest, manifest, num_images)
    config = ScoreConfig(
        images=str(manifest), store=store, date=DATE, key_pattern=PATTERN,
        engine="demo", max_bad=0.01, endpoint_url=None if server is None else server.url,
    )  # fmt: skip
    meters = Meters(num_images, scratch, server)
    scope = open_scope(config).at(DATE)
    before_mb = _resident_mb()
    with (
        ProcessPoolExecutor(
            NUM_WORKERS, mp_context=get_context("spawn"), initializer=answers
        ) as workers,
        contextlib.ExitStack() as opened,
    ):
        list(workers.map(time.sleep, [START_SECONDS] * NUM_WORKERS))
        with meters.stage("plan"):
            state = opened.enter_context(open_date(scope, lambda _: None))
        if not isinstance(state, ToScore):
            raise TypeError(f"a new date is {type(state).__name__}")
        with meters.stage("score"):
            _score(state, workers, meters)
        with meters.stage("resume"):
            state.attempt.is_new = False  # as in another process, which does not know the receipts
            state.attempt.resume()
            state.attempt.is_new = True
        with meters.stage("merge"):
            merged = _merge(state, workers, meters)
        with meters.stage("commit"):
            result = merged.commit()
    commit = _commit_parts(scope.store, str(result.run_id), num_images)
    _in_another_process(write_manifest, manifest, num_images + 1)
    scope = open_scope(config).at(DATE)
    with meters.stage("plan of a late image"):
        planned = plan_date(scope, scratch / "plan.parquet")
    if planned.info.num_images != 1:
        raise ValueError(f"{planned.info.num_images} images are new after the night, expected one")
    return {
        "images": num_images,
        "shards": result.num_shards,
        "quarantined": result.num_quarantined,
        "driver_mb_before": round(before_mb),
        "committed_bytes_per_image": round(
            sum(file.bytes for file in merged.files) / num_images, 1
        ),
        "stages": meters.stages,
        "commit_seconds_per_million": commit,
    }


def _in_another_process(work: Callable[..., None], *arguments: Any) -> None:
    """Call a function whose memory is not to count as the driver's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        other.submit(work, *arguments).result()


def _commit_parts(store: Lake, run_id: str, num_images: int) -> dict[str, float]:
    """How long each table took, from the run's own events."""
    parts: dict[str, float] = {}
    before = None
    for event in read_events(store, run_id):
        at = datetime.datetime.fromisoformat(event["at"])
        if event["event"] == "landed" and before is not None:
            seconds = (at - before).total_seconds()
            parts[event["table"]] = round(seconds * 1e6 / num_images, 2)
        before = at
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="100000,300000,1000000", help="sizes, ascending")
    parser.add_argument("--latency", type=float, help="seconds of each request; else a folder")
    parser.add_argument("--folder", help="where the store and scratch files are; else TMPDIR")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        num_images, folder, direct, url = options.one
        server = DelayedS3(direct, url) if url else None
        store = f"{BUCKET}/store" if url else f"{folder}/store"
        print(json.dumps(night(int(num_images), Path(folder), store, server)))
        return
    sizes = []
    for num_images in map(int, options.images.split(",")):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
            urls = ["", ""]
            if options.latency is not None:
                server = stack.enter_context(delayed_s3(options.latency))
                urls = [server.direct, server.url]
                client = boto3.client("s3", endpoint_url=server.direct)
                client.create_bucket(Bucket=BUCKET.removeprefix("s3://"))
            command = [sys.executable, "-m", "benchmarks.night", "--one", str(num_images), folder]
            done = subprocess.run([*command, *urls], check=True, stdout=subprocess.PIPE, text=True)
            sizes.append(json.loads(done.stdout.splitlines()[-1]))
        measured = {"latency_seconds": options.latency, **sizes[-1], "grows": growing(sizes)}
        keep("night", measured, is_series=True)


def growing(sizes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each stage's measure that is at the largest size `GROWS` times that of the smallest."""
    first, last = sizes[0]["stages"], sizes[-1]["stages"]
    return [
        f"{stage}: {measure}"
        for stage in last
        for measure in GROWING
        if last[stage][measure] > GROWS * first[stage][measure]
    ]


if __name__ == "__main__":
    main()
