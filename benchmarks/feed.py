"""How many images a second come through Ray to a scoring actor, whatever the engine.

`score` as it is, from packed JPEGs on the local disk to committed rows, but for its engine: one
that only pretends, takes JPEGs as decoded, as a GPU does, and gives the masks of synthetic strips,
half of them clean. So all is there but the GPU, and as fast as this machine's cores let it. Shards
are small, so that they come as often as large ones do on a GPU host. Compared, in turns, is how
many shards a read task gets.

    python -m benchmarks.feed [--shard-images 16] [--shards-per-read 1,8]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

from benchmarks.actor import NUM_STRIPS, PretendEngine
from benchmarks.gpu.score import DATE, PATTERN
from benchmarks.machine import keep
from steel_batch.cluster import pool, score_stage, stream
from steel_batch.config import ScoreConfig
from steel_batch.engine.tensorrt import NUM_SLOTS
from steel_batch.pipeline import actors
from steel_batch.pipeline.score import score
from steel_batch.runs.events import Meter
from steel_batch.scoring.children import Children
from steel_batch.scoring.memory import keep_freed_memory
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.synthetic import render

BATCH = 32


class PretendStage(score_stage.ScoreStage):
    """The score stage with a pretend engine."""

    def __init__(self, setup: score_stage.Setup, dispatcher: Any) -> None:
        keep_freed_memory()
        self._dispatcher = dispatcher
        masks = [render(22, i).bitmask_HW for i in range(NUM_STRIPS)]
        self._scorer = ShardScorer(
            PretendEngine(masks, 1e6, BATCH, NUM_SLOTS, decodes=True),
            setup.engine.card,
            setup.store,
            dataclasses.replace(setup.decoding, decode_seconds=None),
            num_threads=setup.num_threads,
            children=Children.start(
                setup.engine.card.post_process, setup.store, num_describers=2, num_writers=1
            ),
        )
        self._meter = Meter(setup.store)
        ray.get(dispatcher.load.remote("pretend"))
        dispatcher.answer.remote("pretend", "here", None)


def pool_of(*_: Any, **__: Any) -> pool.ActorPool:
    """One actor that is supplied as one on a GPU is, on the GPU that Ray is told of."""
    return pool.ActorPool(
        num_actors=1, num_cpus=1.0, num_gpus=1.0, num_threads=2, num_slots=NUM_SLOTS
    )


def images_per_second(images: Path, store: Path, shard_images: int, shards_per_read: int) -> float:
    pool.SHARDS_PER_READ = shards_per_read  # type: ignore[misc]
    config = ScoreConfig(
        images=str(images), store=str(store), key_pattern=PATTERN, engine="demo", date=DATE,
        shard_images=shard_images, runtime="onnxruntime",
    )  # fmt: skip
    (result,) = score(config, lambda _: None)
    return result.images_per_second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-images", type=int, default=8192)
    parser.add_argument("--shard-images", type=int, default=16)
    parser.add_argument("--shards-per-read", default=f"1,{pool.SHARDS_PER_READ}")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    compared = [int(number) for number in args.shards_per_read.split(",")]
    rates: dict[int, list[float]] = {number: [] for number in compared}
    stream.ScoreStage = PretendStage  # type: ignore[attr-defined] # what the driver hands to Ray
    actors.actor_pool = pool_of  # type: ignore[attr-defined]
    ray.init("local", num_gpus=1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.archive", "--out", folder,
             "--num-images", str(args.num_images), "--num-different", "128"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for index in range(args.rounds):
            for number in compared:
                store = Path(folder) / f"store-{number}-{index}"
                rate = images_per_second(Path(folder) / "packed", store, args.shard_images, number)
                rates[number].append(rate)
    figures = {
        **vars(args),
        "images_per_second": {n: statistics.median(found) for n, found in rates.items()},
        "shards_per_second": {
            n: round(statistics.median(found) / args.shard_images, 1) for n, found in rates.items()
        },
        "all_rounds": rates,
    }
    keep("feed", figures)


if __name__ == "__main__":
    main()
