"""On a GPU: the engine alone, the actor's code without Ray, and `score`, in one process tree.

    python -m benchmarks.gpu.score --store DIR --engine ENGINE --images DIR [--decode gpu]

`--images` is what `benchmarks.gpu.archive` packed. The engine alone runs batches that are in pinned
memory already, on as many threads as it has slots; its peaks and counts are copied back and, until
29 November 2026, its masks. Prints figures, and one JSON line.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu.watch import GpuLog, HostLog
from benchmarks.machine import describe_machine
from steel_batch import schema
from steel_batch.cluster.pool import ON_GPU
from steel_batch.config import DECODER, DECODES_ON, DecodeSettings, RuntimeSettings
from steel_batch.engine.runtime import open_runtime
from steel_batch.engine.tensorrt import NUM_SLOTS
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake
from steel_batch.layout import receipts_dir
from steel_batch.registry.versions import load_engine
from steel_batch.runs.receipt import Receipt
from steel_batch.scoring.children import WRITERS, Children
from steel_batch.scoring.memory import keep_freed_memory
from steel_batch.scoring.scorer import BATCHES_PER_SLOT, ShardScorer
from steel_batch.scoring.shard import ShardInput, check_jpegs
from steel_batch.synthetic.writer import write_lake

DATE = "2026-11-21"
PATTERN = "line={line}/date={date}/*.parquet"
SHARD = 256


def engine_alone(runtime: Any, images: list[np.ndarray], seconds: float) -> float:
    def fill(slot: Any) -> None:
        for i in range(runtime.batch_size):
            slot.image_NHW[i] = images[i % len(images)]

    def loop(_: int) -> int:
        done = 0
        with runtime.acquire() as slot:
            fill(slot)
            slot.infer(runtime.batch_size)
            barrier.wait()
            while time.monotonic() - start[0] < seconds:
                slot.infer(runtime.batch_size)
                done += runtime.batch_size
        return done

    start = [0.0]
    barrier = threading.Barrier(
        runtime.num_slots, action=lambda: start.__setitem__(0, time.monotonic())
    )
    with ThreadPoolExecutor(runtime.num_slots) as pool:
        done = sum(pool.map(loop, range(runtime.num_slots)))
    return done / (time.monotonic() - start[0])


def shards(contents: list[bytes], number: int, size: int = SHARD) -> Iterator[ShardInput]:
    for shard in range(number):
        chosen = [contents[(shard * size + i) % len(contents)] for i in range(size)]
        keys = [f"line=1/date={DATE}/s{shard:05d}i{i:04d}.jpg" for i in range(size)]
        columns = {
            "image_key": keys,
            "image_id": keys,
            "date": [None] * size,
            "line": ["1"] * size,
            "tags": [[] for _ in keys],
            "object_key": keys,
            "bytes": [len(c) for c in chosen],
            "etag": ["e"] * size,
            "shard": [shard] * size,
        }
        refs = pa.table(
            [pa.array(columns.get(f.name, [None] * size), f.type) for f in schema.PLAN],
            schema=schema.PLAN,
        )
        yield check_jpegs(
            ShardInput(
                run_id=f"{DATE}-bench-000000000000-0001",
                plan_digest="0",
                shard=shard,
                refs=refs,
                contents=chosen,
                errors=[None] * size,
                failure=None,
                transient=False,
            ),
            height=256,
            width=1600,
        )


def in_process(
    runtime: Any, engine: Any, store: Lake, contents: list[bytes], args: argparse.Namespace
) -> dict[str, float]:
    number = args.shards
    scorer = ShardScorer(
        runtime,
        engine.card,
        store,
        DecodeSettings(decode_on=args.decode, decoder=DECODER, bits=None, decode_seconds=None),
        num_threads=args.threads,
        children=Children.start(
            engine.card.post_process,
            store,
            num_describers=args.describers,
            num_writers=args.writers,
        ),
    )
    work = shards(contents, number + 6)
    with ThreadPoolExecutor(args.calls) as pool:
        list(pool.map(scorer.score, [next(work) for _ in range(6)]))
        rest = list(work)
        started, cpu_started = time.monotonic(), time.process_time()
        list(pool.map(scorer.score, rest))
        took = time.monotonic() - started
        return {
            "in_process_images_per_second": round(number * SHARD / took, 1),
            "in_process_cores": round((time.process_time() - cpu_started) / took, 2),
        }


def middle_images_per_second(store: Lake, run_id: str) -> float:
    """Of the middle four fifths of a run: while it begins, what is read is not ahead yet.

    0 where that is too few shards to tell.
    """
    found = [
        Receipt.from_json(store.read(f.key), source=f.key)
        for f in store.list_objects(receipts_dir(run_id))
    ]
    found.sort(key=lambda receipt: receipt.scored_at)
    at = [datetime.datetime.fromisoformat(receipt.scored_at).timestamp() for receipt in found]
    num_done = np.cumsum([receipt.num_images for receipt in found])
    first, last = np.searchsorted(num_done, [0.1 * num_done[-1], 0.9 * num_done[-1]])
    seconds = at[last] - at[first]
    return float(num_done[last] - num_done[first]) / seconds if seconds else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--runtime", default="tensorrt")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=12)
    parser.add_argument("--decode", choices=DECODES_ON, default="cpu")
    parser.add_argument("--slots", type=int, default=NUM_SLOTS, help="not of `score`")
    parser.add_argument("--calls", type=int, default=ON_GPU.num_in_work, help="not of `score`")
    parser.add_argument(
        "--describers", type=int, default=BATCHES_PER_SLOT * NUM_SLOTS, help="not of `score`"
    )
    parser.add_argument("--writers", type=int, default=WRITERS, help="not of `score`")
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--skip-score", action="store_true")
    parser.add_argument("--pattern", default=PATTERN)
    parser.add_argument("--score-flags", default="")
    args = parser.parse_args()
    keep_freed_memory()  # as an actor does
    store = Lake(str(args.store))
    engine = load_engine(args.engine, store=store)
    started = time.monotonic()
    runtime = open_runtime(
        engine,
        RuntimeSettings(runtime=args.runtime, precision=args.precision, batch_size=args.batch_size),
        decode_on=args.decode,
        num_threads=args.threads,
        num_slots=args.slots,
    )
    figures: dict[str, Any] = {
        "benchmark": "gpu_score",
        "engine": engine.card.name,
        "runtime": runtime.description,
        "load_or_build_seconds": round(time.monotonic() - started, 1),
    }
    scratch = args.store / "bench"
    shutil.rmtree(scratch, ignore_errors=True)
    source = Lake(str(scratch / "images"))
    write_lake(source, num_images=512, seed=22, lines=["1"], dates=[DATE])
    contents = [f.read_bytes() for f in sorted((scratch / "images").glob("line=*/date=*/*.jpg"))]
    images = [decode_gray(c) for c in contents[:64]]
    figures["engine_images_per_second"] = round(engine_alone(runtime, images, args.seconds), 1)
    print(figures, file=sys.stderr, flush=True)
    figures |= in_process(runtime, engine, Lake(str(scratch / "rows")), contents, args)
    figures["engine_again_images_per_second"] = round(
        engine_alone(runtime, images, args.seconds), 1
    )
    runtime.close()
    print(figures, file=sys.stderr, flush=True)
    if not args.skip_score:
        for name in ("predictions", "class_summaries", "quarantine", "runs", "locks/engine"):
            for folder in args.store.glob(f"{name}*"):
                shutil.rmtree(folder)
        with GpuLog() as gpu, HostLog() as host:
            done = subprocess.run(
                [sys.executable, "-m", "steel_batch.cli", "score",
                 "--images", str(args.images), "--key-pattern", args.pattern, "--date", DATE,
                 "--store", str(args.store), "--engine", args.engine,
                 "--runtime", args.runtime,
                 "--precision", args.precision, "--batch-size", str(args.batch_size),
                 "--cpus-per-actor", str(args.threads), "--decode", args.decode,
                 "--output", "json",
                 *args.score_flags.split()],
                stdout=subprocess.PIPE, check=False,
            )  # fmt: skip
        if done.returncode:
            sys.exit(done.returncode)
        result = json.loads(done.stdout)
        figures |= {
            "score_images_per_second": result["images_per_second"],
            "score_middle_images_per_second": round(
                middle_images_per_second(store, result["run_id"]), 1
            ),
            "score_num_images": result["num_images"],
            "score_num_scored": result["num_scored"],
            "score_startup_seconds": result["startup_seconds"],
            "score_seconds": result["seconds"],
            "score_steps": result["attempt_seconds"],
            "score_defective": [c["num_images"] for c in result["classes"]],
            **gpu.summary(),
            **host.summary(),
            "score_of_engine": round(
                result["images_per_second"]
                / max(
                    figures["engine_images_per_second"],
                    figures["engine_again_images_per_second"],
                ),
                3,
            ),
        }
    figures |= describe_machine()
    for name, value in figures.items():
        print(f"{name:34} {value}", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
