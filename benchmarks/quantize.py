"""What INT8 is worth on a CPU: an engine's master graph, and what the training job makes of it.

The graph is quantised as the job does it, with synthetic strips in the place of training images,
and both are judged on other strips. Speed is that of ONNX Runtime alone, in turns.

    python -m benchmarks.quantize [--engine demo] [--num-images 300] [--seconds 15] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile

from benchmarks.gpu.score import engine_alone
from benchmarks.machine import keep
from steel_batch.config import CPU_BATCH_SIZE
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.lake import Lake
from steel_batch.registry.versions import Engine, load_engine
from steel_batch.synthetic import render
from steel_batch.synthetic.writer import write_lake
from training.dataset import Dataset, open_dataset
from training.judge import judge
from training.metrics import Metrics
from training.quantize import CALIBRATIONS, compare, quantize_graph
from training.session import open_session

NUM_CALIBRATION = 48
CALIBRATION_SEED, JUDGED_SEED = 1, 3


def images_per_second(engine: Engine, graph: bytes, num_threads: int, seconds: float) -> float:
    """Of ONNX Runtime, with images that are in its memory already."""
    runtime = OrtRuntime(
        graph, engine.card, precision="", batch_size=CPU_BATCH_SIZE, num_threads=num_threads
    )
    rate = engine_alone(runtime, [render(JUDGED_SEED, k).image_HW for k in range(8)], seconds)
    runtime.close()
    return rate


def judged(engine: Engine, graph: bytes, strips: Dataset) -> Metrics:
    card = engine.card
    return judge(open_session(graph), strips, card.post_process, card.height, card.width)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="demo")
    parser.add_argument("--num-images", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    num_threads = len(os.sched_getaffinity(0))
    engine = load_engine(options.engine, store=None)
    master = engine.read_graph("fp32")
    calibration = [render(CALIBRATION_SEED, i).image_HW for i in range(NUM_CALIBRATION)]
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        write_lake(
            lake, num_images=options.num_images, seed=JUDGED_SEED, lines=["1"], dates=["2026-11-21"]
        )
        strips = open_dataset(
            lake, lake.read("train.csv"), source="train.csv", num_classes=len(engine.card.classes)
        )
        before = judged(engine, master, strips)
        for kind in CALIBRATIONS:
            quantised = quantize_graph(master, calibration, kind)
            after = judged(engine, quantised, strips)
            verdict = compare(before, after, kind)
            if verdict.accepted:
                break
    rates: dict[str, list[float]] = {"fp32": [], "int8": []}
    for _ in range(options.rounds):
        for precision, graph in (("fp32", master), ("int8", quantised)):
            rates[precision].append(images_per_second(engine, graph, num_threads, options.seconds))
    figures = {
        "engine": engine.card.name,
        "num_judged": options.num_images,
        "rounds": options.rounds,
        "batch_size": CPU_BATCH_SIZE,
        "num_threads": num_threads,
        "images_per_second": {
            precision: round(statistics.median(found), 2) for precision, found in rates.items()
        },
        "all_rounds": {
            precision: [round(rate, 2) for rate in found] for precision, found in rates.items()
        },
        "int8_by_fp32": round(
            statistics.median(b / a for a, b in zip(rates["fp32"], rates["int8"], strict=True)), 3
        ),
        "graph_bytes": {"fp32": len(master), "int8": len(quantised)},
        "kaggle_dice": {"fp32": before.kaggle_dice, "int8": after.kaggle_dice},
        "present_dice": {
            "fp32": [c.present_dice for c in before.classes],
            "int8": [c.present_dice for c in after.classes],
        },
        "calibration": verdict.calibration,
        "accepted": verdict.accepted,
        "why": verdict.why,
    }
    keep("quantize", figures)


if __name__ == "__main__":
    main()
