"""How many images a second one scoring actor feeds to an engine, whatever the engine.

The actor's own code runs with a pretend engine of a given speed, which gives the masks of synthetic
strips, half of them clean. Decoding is real, or (`--decode-ms`) a sleep of that length outside the
interpreter's lock: that is what it costs on a machine with cores to spare, so a machine with two
shows what the lock lets through. With `--decode gpu` the pretend engine takes JPEGs as decoded.
Shards come as from a read task. CPU seconds are those of the actor and, apart, of its children.

    python -m benchmarks.actor [--engine-rate 2950] [--decode-ms 1.5]
    python -m benchmarks.actor --decode gpu --engine-rate 1e6 --batch-size 64 --shard-images 512
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu.score import SHARD, shards
from benchmarks.machine import keep
from steel_batch.cluster.pool import ON_GPU
from steel_batch.config import DECODER, DECODES_ON, DecodeSettings
from steel_batch.engine.contract import Figures, Provenance
from steel_batch.engine.ring import SlotRing
from steel_batch.engine.tensorrt import NUM_SLOTS
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine
from steel_batch.scoring.children import WRITERS, Children
from steel_batch.scoring.scorer import BATCHES_PER_SLOT, ShardScorer
from steel_batch.scoring.shard import ShardInput
from steel_batch.scoring.shard_result import ShardResult
from steel_batch.synthetic import render
from steel_batch.synthetic.writer import encode_jpeg

NUM_STRIPS = 64
DECODE_MS = "BENCHMARK_DECODE_MS"
GRAY_HW = np.full((256, 1600), 90, np.uint8)


class PretendSlot:
    """One batch of the same masks each time; only one slot is on the device at once."""

    def __init__(
        self, masks: list[np.ndarray], seconds: float, device: threading.Lock, *, decodes: bool
    ) -> None:
        self.image_NHW = np.zeros((len(masks), *masks[0].shape), np.uint8)
        counts = [[np.count_nonzero(m >> c & 1) for c in range(4)] for m in masks]
        self._mask_NHW = np.stack(masks)
        self._figures = Figures(
            peak_NC=np.full((len(masks), 4), 0.9, np.float32),
            count_NC=np.array(counts, np.float32),
        )
        self._seconds, self._device, self._decodes = seconds, device, decodes

    jpeg_decoder = "pretend decoder"

    def load_jpegs(self, jpegs: Mapping[int, Any]) -> frozenset[int]:
        return frozenset(jpegs) if self._decodes else frozenset()

    def infer(self, num_images: int) -> Figures:
        with self._device:
            time.sleep(self._seconds)
        figures = self._figures
        return Figures(peak_NC=figures.peak_NC[:num_images], count_NC=figures.count_NC[:num_images])

    def copy_out(self, places: Sequence[int], mask_NHW: np.ndarray, sample_NHW: np.ndarray) -> None:
        np.take(self._mask_NHW, places, axis=0, out=mask_NHW, mode="clip")
        sample_NHW[:] = self.image_NHW[: len(sample_NHW), ::16]


class PretendEngine:
    """A runtime of a given speed, which takes JPEGs as decoded or leaves them to the CPU."""

    description = "pretend engine"
    provenance = Provenance(
        runtime="pretend", runtime_version="0", precision="fp32", device="pretend"
    )

    def __init__(
        self,
        masks: list[np.ndarray],
        rate: float,
        batch_size: int,
        num_slots: int,
        *,
        decodes: bool = False,
    ) -> None:
        self.batch_size, self.num_slots = batch_size, num_slots
        device = threading.Lock()
        batch = [masks[i % len(masks)] for i in range(batch_size)]
        slots = [
            PretendSlot(batch, batch_size / rate, device, decodes=decodes) for _ in range(num_slots)
        ]
        self._ring = SlotRing(slots)

    def acquire(self) -> AbstractContextManager[Any]:
        return self._ring.acquire()

    def register(self, memory: np.ndarray) -> None:
        """Nothing copies to it directly."""

    def close(self) -> None:
        self._ring.close()


def decode(_: Any) -> np.ndarray:
    """What `--decode-ms` puts in the place of decoding."""
    time.sleep(float(os.environ[DECODE_MS]) / 1000)
    return GRAY_HW


def measure(args: argparse.Namespace, store: Lake) -> dict[str, float]:
    strips = [render(22, i) for i in range(NUM_STRIPS)]
    engine = PretendEngine(
        [s.bitmask_HW for s in strips],
        args.engine_rate,
        args.batch_size,
        args.slots,
        decodes=args.decode == "gpu",
    )
    card = load_engine("demo", store=None).card
    children = Children.start(
        card.post_process, store, num_describers=args.describers, num_writers=args.writers
    )
    scorer = ShardScorer(
        engine,
        card,
        store,
        DecodeSettings(
            decode_on=args.decode,
            decoder="benchmarks.actor:decode"
            if args.decode == "cpu" and args.decode_ms
            else DECODER,
            bits=None,
            decode_seconds=None,
        ),
        num_threads=args.threads,
        children=children,
    )
    contents = [encode_jpeg(s.image_HW) for s in strips]
    num = args.shards * args.shard_images
    made = shards(contents, args.shards + args.calls, args.shard_images)
    work = [shard.to_wire() for shard in made]

    def score(table: pa.Table) -> pa.Table:
        shard = ShardInput.from_wire(table)
        result = dataclasses.replace(ShardResult.of(shard), receipt=scorer.score(shard))
        return result.to_wire()

    with ThreadPoolExecutor(args.calls) as pool:
        list(pool.map(score, work[: args.calls]))
        before, used = cpu_seconds(children), time.process_time()
        started = time.monotonic()
        list(pool.map(score, work[args.calls :]))
        seconds = time.monotonic() - started
        used = time.process_time() - used
        figures = {
            "images_per_second": num / seconds,
            "actor_us": used / num * 1e6,
            **{
                f"{kind}_us": (after - before[kind]) / num * 1e6
                for kind, after in cpu_seconds(children).items()
            },
        }
    scorer.close()
    return figures


def cpu_seconds(children: Children) -> dict[str, float]:
    """CPU seconds of child processes so far."""
    found = {}
    for kind in ("describers", "writers"):
        ticks = 0
        for child in getattr(children, kind):
            stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        found[kind] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine-rate", type=float, default=2950.0, help="images/s")
    parser.add_argument("--decode-ms", type=float, default=1.5, help="0 decodes")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--slots", type=int, default=NUM_SLOTS)
    parser.add_argument("--threads", type=int, default=12)
    parser.add_argument("--decode", choices=DECODES_ON, default="cpu")
    parser.add_argument("--describers", type=int, default=BATCHES_PER_SLOT * NUM_SLOTS)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument(
        "--calls", type=int, default=ON_GPU.num_in_work, help="shards in work at once"
    )
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--shard-images", type=int, default=SHARD)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ[DECODE_MS] = str(args.decode_ms)
    with tempfile.TemporaryDirectory() as folder:
        rounds = [measure(args, Lake(f"{folder}/{i}")) for i in range(args.rounds)]
    figures = {**vars(args)}
    for name in rounds[0]:
        figures[name] = round(statistics.median(found[name] for found in rounds), 1)
    figures |= {
        "of_engine": round(figures["images_per_second"] / args.engine_rate, 3),
        "all_rounds": [{name: round(found[name], 1) for name in found} for found in rounds],
    }
    keep("actor", figures)


if __name__ == "__main__":
    main()
