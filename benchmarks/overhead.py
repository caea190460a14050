"""What the pipeline costs: a bare loop and `score` over the same images with the same engine.

The loop is what one would write first: read, decode, infer in batches, in one process with every
core given to ONNX Runtime; no rows, no run-lengths, no output. `score` does all of its work. Both
are timed in steady state, in one process tree, in turns; start-up is stated apart. So is what the
engine does with images that are decoded already, each core with a batch of its own: the limit. The
loop runs the engine's file as it was exported; `score` changes one Resize of it while it loads it
(`registry.few_channels`), which is part of what is compared.

    python -m benchmarks.overhead [--num-images 800] [--rounds 3]
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
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.gpu.score import engine_alone
from benchmarks.machine import keep
from steel_batch.config import RuntimeSettings
from steel_batch.engine.runtime import open_runtime
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake
from steel_batch.registry.card import IMAGE
from steel_batch.registry.versions import load_engine
from steel_batch.synthetic.writer import write_lake

DATE = "2026-11-21"
BATCH = 4
LIMIT_SECONDS = 15.0


def bare_loop(lake: Path) -> float:
    """Images per second of the loop, without loading the engine."""
    graph = load_engine("demo", store=None).read_graph("fp32")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    files = sorted(lake.glob("line=*/date=*/*.jpg"))
    images_NHW = np.zeros((BATCH, 1, 256, 1600), np.uint8)
    session.run(None, {IMAGE: images_NHW})
    started = time.perf_counter()
    for i in range(0, len(files), BATCH):
        batch = files[i : i + BATCH]
        for k, file in enumerate(batch):
            images_NHW[k, 0] = decode_gray(file.read_bytes())
        session.run(None, {IMAGE: images_NHW[: len(batch)]})
    return len(files) / (time.perf_counter() - started)


def limit(lake: Path, num_threads: int) -> float:
    """Images per second of the engine alone, as `score` uses it."""
    engine = load_engine("demo", store=None)
    runtime = open_runtime(
        engine,
        RuntimeSettings(runtime="onnxruntime", precision="auto", batch_size=None),
        num_threads=num_threads,
    )
    files = sorted(lake.glob("line=*/date=*/*.jpg"))[:16]
    rate = engine_alone(runtime, [decode_gray(file.read_bytes()) for file in files], LIMIT_SECONDS)
    runtime.close()
    return rate


def through_score(lake: Path, store: Path) -> dict[str, float]:
    """What the command reports of itself, as a user would start it."""
    shutil.rmtree(store, ignore_errors=True)
    done = subprocess.run(
        [
            sys.executable, "-m", "steel_batch.cli", "score",
            "--images", str(lake), "--store", str(store), "--date", DATE,
            "--key-pattern", "line={line}/date={date}/{image_id}.jpg",
            "--shard-images", "32", "--runtime", "onnxruntime",
            "--output", "json",
        ],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    num_threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        lake, store = Path(folder) / "lake", Path(folder) / "store"
        write_lake(
            Lake(str(lake)), num_images=options.num_images, seed=11, lines=["1"], dates=[DATE]
        )
        loop, score, alone, ratios, startup = [], [], [], [], []
        for _ in range(options.rounds):
            loop.append(bare_loop(lake))
            alone.append(limit(lake, num_threads))
            result = through_score(lake, store)
            score.append(result["images_per_second"])
            startup.append(result["startup_seconds"])
            ratios.append(score[-1] / loop[-1])
    figures = {
        "num_images": options.num_images,
        "rounds": options.rounds,
        "loop_batch_size": BATCH,
        "num_threads": num_threads,
        "engine": load_engine("demo", store=None).card.name,
        "loop_images_per_second": round(statistics.median(loop), 2),
        "score_images_per_second": round(statistics.median(score), 2),
        "engine_alone_images_per_second": round(statistics.median(alone), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "startup_seconds": round(statistics.median(startup), 2),
    }
    keep("overhead", figures)


if __name__ == "__main__":
    main()
