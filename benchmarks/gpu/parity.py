"""Masks of a TensorRT plan against ONNX Runtime's FP32, on synthetic and on given images.

    python -m benchmarks.gpu.parity --store DIR --engine ENGINE [--images DIR] [--num-synthetic 200]

ONNX Runtime runs on the CPU, so the number of images is what its cores can do. For every pixel that
differs the probability in FP32 is not known from the contract's graph; what is reported is the share
of pixels, of images with any, and how far the peaks are apart.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from steel_batch.decode import decode_gray
from steel_batch.engine.contract import Runtime
from steel_batch.engine.runtime import open_runtime
from steel_batch.lake import Lake
from steel_batch.registry import load_engine
from steel_batch.synthetic import render


def run(runtime: Runtime, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    masks, peaks = [], []
    for first in range(0, len(images), runtime.batch_size):
        batch = images[first : first + runtime.batch_size]
        with runtime.acquire() as slot:
            for i, image in enumerate(batch):
                slot.image_NHW[i] = image
            output = slot.infer(len(batch))
            masks.append(output.mask_NHW.copy())
            peaks.append(output.peak_NC.copy())
    return np.concatenate(masks), np.concatenate(peaks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--num-synthetic", type=int, default=200)
    parser.add_argument("--precisions", default="fp16")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    engine = load_engine(args.engine, store=Lake(str(args.store)))
    images = [render(31, i).image_HW for i in range(args.num_synthetic)]
    if args.images:
        found = sorted(p for p in args.images.rglob("*") if p.suffix in (".jpg", ".png"))
        images += [decode_gray(p.read_bytes()) for p in found]
    reference = open_runtime(
        engine, runtime="onnxruntime", precision="fp32", batch_size=8,
        num_threads=len(os.sched_getaffinity(0)),
    )  # fmt: skip
    started = time.monotonic()
    expected, expected_peaks = run(reference, images)
    reference.close()
    cpu_rate = len(images) / (time.monotonic() - started)
    for precision in args.precisions.split(","):
        runtime = open_runtime(
            engine, runtime="tensorrt", precision=precision, batch_size=args.batch_size
        )
        masks, peaks = run(runtime, images)
        description = runtime.description
        runtime.close()
        differs = masks != expected
        figures = {
            "benchmark": "gpu_parity",
            "engine": engine.card.name,
            "runtime": description,
            "num_images": len(images),
            "num_synthetic": args.num_synthetic,
            "share_of_pixels_that_differ": float(differs.mean()),
            "images_that_differ": int(differs.any(axis=(1, 2)).sum()),
            "most_pixels_of_one_image": int(differs.sum(axis=(1, 2)).max()),
            "images_with_pixels": int((expected > 0).any(axis=(1, 2)).sum()),
            "dice_per_class": [
                round(_dice(masks >> c & 1, expected >> c & 1), 6)
                for c in range(len(engine.card.classes))
            ],
            "greatest_peak_difference": float(np.abs(peaks - expected_peaks).max()),
            "onnxruntime_images_per_second": round(cpu_rate, 1),
            **describe_machine(),
        }
        print(json.dumps(figures), flush=True)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    total = int(a.sum(dtype=np.int64) + b.sum(dtype=np.int64))
    return 2 * int((a & b).sum(dtype=np.int64)) / total if total else 1.0


if __name__ == "__main__":
    main()
