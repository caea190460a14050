"""What one would write with Ray Data and PyTorch: decode, network in FP16, RLE in numpy, Parquet.

    python -m benchmarks.gpu.torch_baseline --images DIR --encoder resnet18 [--compile]

Reads the packed Parquet that `benchmarks.gpu.archive` wrote. Rows are images; batches of the GPU's
size go to one actor that holds the network, as in Ray's own example of batch inference. With the
weights of the training checkpoint of `benchmarks.gpu.shapes`'s ``r18`` the masks are the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import ray
import torch

from benchmarks.machine import describe_machine
from training.model import Segmenter
from training.recipe import ModelConfig


def decode(row: dict[str, Any]) -> dict[str, Any]:
    row["pixels"] = cv2.imdecode(np.frombuffer(row.pop("image"), np.uint8), cv2.IMREAD_GRAYSCALE)
    return row


class Predict:
    def __init__(self, encoder: str, weights: str | None, compiled: bool) -> None:
        network = Segmenter(ModelConfig(encoder=encoder), 4)
        if weights:
            saved = torch.load(weights, weights_only=True, map_location="cpu")
            network.load_state_dict(saved.get("average", saved))
        self._network: Any = network.eval().half().cuda().to(memory_format=torch.channels_last)
        if compiled:
            self._network = torch.compile(self._network)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pixels = np.stack(batch.pop("pixels"))
        with torch.inference_mode():
            image = torch.from_numpy(pixels).cuda().unsqueeze(1).half() / 255
            probability = torch.sigmoid(self._network(image))
            batch["mask"] = (probability > 0.5).cpu().numpy()
            batch["at"] = np.full(len(pixels), time.time())
            batch["peak"] = probability.amax((2, 3)).float().cpu().numpy()
        return batch


def encode(batch: dict[str, Any]) -> dict[str, Any]:
    batch["rle"] = [[rle(mask) for mask in masks] for masks in batch.pop("mask")]
    return batch


def rle(mask: np.ndarray) -> str:
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--weights")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    num_cpus = len(os.sched_getaffinity(0))
    ray.init(num_cpus=num_cpus, num_gpus=1, include_dashboard=False, log_to_driver=False)
    started = time.monotonic()
    dataset = ray.data.read_parquet(args.images, columns=["image_id", "image"])
    if args.limit:
        dataset = dataset.limit(args.limit)
    scored = (
        dataset.map(decode)
        .map_batches(
            Predict,
            fn_constructor_args=[args.encoder, args.weights, args.compile],
            batch_size=args.batch_size,
            num_gpus=1,
            concurrency=1,
        )
        .map_batches(encode, batch_size=args.batch_size)
    )
    scored.write_parquet(str(args.out))
    seconds = time.monotonic() - started
    at = np.sort(np.concatenate([pq.read_table(f)["at"] for f in args.out.rglob("*.parquet")]))
    # In steady state: without Ray's start, the network's, and the first batches of `compile`.
    late = at[at > at[0] + 0.2 * (at[-1] - at[0])]
    figures = {
        "benchmark": "torch_baseline",
        "network": f"Unet {args.encoder}",
        "compiled": args.compile,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
        "batch_size": args.batch_size,
        "num_images": len(at),
        "seconds": round(seconds, 1),
        "images_per_second": round(len(late) / float(late[-1] - late[0]), 1),
        **describe_machine(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
