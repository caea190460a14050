"""How fast the versions of a store are on this GPU, beside how good their cards say they are.

    python -m benchmarks.gpu.engines --store DIR --engines r18-…,r18.s2-… [--precisions fp16,int8]

Plans that are missing are built. Each engine runs batches that are in pinned memory already, on as
many threads as it has slots; prints one JSON line for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.gpu.score import engine_alone
from benchmarks.machine import describe_machine
from steel_batch import synthetic
from steel_batch.config import RuntimeSettings
from steel_batch.engine.compiled_plans import list_plans
from steel_batch.engine.runtime import open_runtime
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--engines", required=True)
    parser.add_argument("--runtime", default="tensorrt")
    parser.add_argument("--precisions", default="fp16")
    parser.add_argument("--batch-sizes", default="32")
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    images = [synthetic.render(31, i).image_HW for i in range(64)]
    for name in args.engines.split(","):
        engine = load_engine(name, store=Lake(str(args.store)))
        for precision in args.precisions.split(","):
            for batch_size in map(int, args.batch_sizes.split(",")):
                started = time.monotonic()
                try:
                    runtime = open_runtime(
                        engine,
                        RuntimeSettings(
                            runtime=args.runtime, precision=precision, batch_size=batch_size
                        ),
                    )
                except SteelBatchError as error:
                    print(name, precision, error, file=sys.stderr, flush=True)
                    continue
                loaded = time.monotonic()
                rates = [engine_alone(runtime, images, args.seconds) for _ in range(2)]
                runtime.close()
                metrics = engine.card.metrics
                figures = {
                    "benchmark": "gpu_engine",
                    "engine": engine.card.name,
                    "runtime": runtime.description,
                    "images_per_second": [round(rate, 1) for rate in rates],
                    "load_or_build_seconds": round(loaded - started, 1),
                    "check": [
                        plan.check
                        for plan in list_plans(engine)
                        if (plan.precision, plan.batch_size) == (precision, batch_size)
                    ],
                    "kaggle_dice": metrics["kaggle_dice"],
                    "present_dice": [c["present_dice"] for c in metrics["classes"]],
                    **describe_machine(),
                }
                print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
