"""Images, answers and shards of a night that is simulated: see `benchmarks.night`.

A pretend engine takes the place of reading, decoding and inference and answers at once, with
defects for two images of five and one image of a thousand that cannot be decoded. Its answers are
written as a run writes them.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.engine.contract import Provenance
from steel_batch.errors import DecodeError, ImageError
from steel_batch.lake import Lake
from steel_batch.runs.events import Meter
from steel_batch.runs.plan import Plan
from steel_batch.scoring.description import to_stream
from steel_batch.scoring.rows import ScoredBy, ScoredShard, Scores, Shape
from steel_batch.scoring.shard import ShardInput
from steel_batch.scoring.shard_result import ShardResult
from steel_batch.scoring.writer import LocalWriter
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.merge import merge_shards

DATE: Final = "2026-11-21"
PATTERN: Final = "line={line}/date={date}/{image_id}.jpg"
NUM_LINES: Final = 8
HEIGHT, WIDTH = 256, 1600
NUM_CLASSES: Final = 4
NUM_ANSWERS: Final = 20_000
"""Different answers of the pretend engine: with few, compression would find them again."""
BAD_EVERY: Final = 1000
"""One image in so many cannot be decoded."""
SHARDS_AT_ONCE: Final = 16
"""Per worker: shards that wait for the store at the same time."""
MANIFEST_ROWS: Final = 100_000
SCORED_BY: Final = ScoredBy(
    provenance=Provenance(
        runtime="onnxruntime", runtime_version="pretend", precision="fp32", device="cpu"
    ),
    cpu_decoder="pretend",
    scorer="pretend",
    num_classes=NUM_CLASSES,
)


def write_manifest(path: Path, num_images: int) -> None:
    """A Parquet manifest with keys, sizes and etags, in an order that is not the plan's."""
    fields = pa.schema([("key", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
    with pq.ParquetWriter(path, fields, compression="zstd") as writer:
        for start in range(0, num_images, MANIFEST_ROWS):
            numbers = range(start, min(start + MANIFEST_ROWS, num_images))
            keys = [f"line={n % NUM_LINES + 1}/date={DATE}/im{n:09d}.jpg" for n in numbers]
            etags = [f"{n * 2654435761 % (1 << 64):032x}" for n in numbers]
            sizes = [100_000 + n % 50_000 for n in numbers]
            writer.write_table(pa.table([keys, sizes, etags], schema=fields))


@functools.lru_cache(maxsize=1)
def answers() -> pa.Array:
    """Defects of `NUM_ANSWERS` images, with run-lengths as long as those of real defects."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(NUM_ANSWERS):
        defects = []
        chosen = rng.choice(NUM_CLASSES, rng.integers(1, 3), replace=False)
        for c in sorted(chosen) if rng.random() < 0.4 else []:
            lengths = rng.integers(1, 40, rng.integers(20, 200))
            starts = np.cumsum(lengths + rng.integers(1, 300, len(lengths)))
            runs = " ".join(f"{a} {b}" for a, b in zip(starts, lengths, strict=True))
            defects.append(
                {
                    "class_id": int(c) + 1, "rle": runs, "area_px": int(lengths.sum()),
                    "num_components": 1, "bbox": {"x": 0, "y": 0, "w": 9, "h": 9}, "peak": 0.9,
                }
            )  # fmt: skip
        found.append(defects)
    return pa.array(found, schema.PREDICTIONS.field("defects").type)


def _pretend_scores(refs: pa.Table) -> Scores:
    """What the engine and the decoder say of a shard's images, from their sizes alone."""
    numbers = refs["bytes"].to_numpy()
    error: ImageError = DecodeError("it is cut off.", code="truncated")
    size: Shape = (HEIGHT, WIDTH)
    shapes = [error if number % BAD_EVERY == 0 else size for number in numbers.tolist()]
    rng = np.random.default_rng(int(numbers[0]))
    return Scores(
        shapes=shapes,
        peak_NC=rng.random((len(numbers), NUM_CLASSES), np.float32),
        described=[
            to_stream(
                answers().take(pa.array(numbers % NUM_ANSWERS)),
                rng.random((len(numbers), 3), np.float32) * 100,
            )
        ],
        gpu_decoders=[None] * len(numbers),
    )


def _score_shard(store: Lake, shard: ShardInput) -> ShardResult:
    """What `ShardScorer.score` does after the engine's answer."""
    scored = ScoredShard(
        run_id=shard.run_id, plan_digest=shard.plan_digest, shard=shard.shard, refs=shard.refs,
        scores=_pretend_scores(shard.refs), scored_by=SCORED_BY,
        scored_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
        started_seconds=time.monotonic(),
    )  # fmt: skip
    return dataclasses.replace(ShardResult.of(shard), receipt=LocalWriter(store).write(scored))


def score_group(
    store: Lake, run_id: str, digest: str, group: int, numbers: Sequence[int]
) -> tuple[pa.Table, float]:
    """Score the shards of a row group; the results as they travel, and CPU seconds."""
    before = time.process_time()
    meter = Meter(store)
    refs = Plan(store, run_id, digest=digest).read_group(group)
    counts = refs["shard"].to_numpy()
    shards = []
    for number in numbers:
        start, stop = np.searchsorted(counts, [number, number + 1])
        part = refs.slice(int(start), int(stop - start)).combine_chunks()
        shards.append(
            ShardInput(
                run_id=run_id, plan_digest=digest, shard=number, refs=part,
                contents=[None] * part.num_rows, errors=[None] * part.num_rows,
            )
        )  # fmt: skip
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        results = list(pool.map(functools.partial(_score_shard, store), shards))
    results[0] = dataclasses.replace(results[0], counts=meter.take())
    wires = [result.to_wire() for result in results]
    return pa.concat_tables(wires), time.process_time() - before


def merge_cut(store: Lake, run_id: str, number: int, shards: range) -> tuple[DataFile, float]:
    before = time.process_time()
    return merge_shards(store, run_id, number, shards), time.process_time() - before
