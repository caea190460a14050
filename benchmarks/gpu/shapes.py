"""Train several shapes of network the same way on synthetic strips, and make a version of each.

    python -m benchmarks.gpu.shapes --out DIR [--steps 2000] [--shapes r18,r18_s2,…]

Each version lands in ``DIR/registry/<shape>/<version>/``, its figures in ``DIR/shapes.jsonl``. Run
it on a GPU host; how fast each version is there is for `benchmarks.gpu.engines` to say.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path

from steel_batch import synthetic
from steel_batch.lake import Lake
from steel_batch.registry import register
from steel_batch.synthetic.writer import write_lake
from training.dataset import Dataset, open_dataset
from training.loop import train
from training.model import ModelConfig
from training.recipe import TrainConfig
from training.register import Parts, make_version

NARROW = (96, 64, 48, 32, 16)
SHAPES = {
    "r18": ModelConfig(encoder="resnet18"),
    "r18_s2": ModelConfig(encoder="resnet18", output_stride=2),
    "r18_s4": ModelConfig(encoder="resnet18", output_stride=4),
    "r18_s4_narrow": ModelConfig(encoder="resnet18", output_stride=4, decoder_channels=NARROW),
    "r18_half": ModelConfig(encoder="resnet18", input_stride=2),
    "r18_half_s2": ModelConfig(encoder="resnet18", input_stride=2, output_stride=2),
    "r34_half_s2": ModelConfig(encoder="resnet34", input_stride=2, output_stride=2),
    "demo": ModelConfig(
        encoder="tu-lcnet_050", input_stride=2, output_stride=2, decoder_channels=NARROW
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--no-int8", action="store_true")
    parser.add_argument("--loaders", type=int)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    args = parser.parse_args()
    parts = Parts(
        training=_synthetic(args.out, 1, args.images),
        validation=_synthetic(args.out, 2, args.held_out),
        test=_synthetic(args.out, 3, args.held_out),
    )
    for name in filter(None, args.shapes.split(",")):
        config = TrainConfig(
            model=SHAPES[name],
            num_steps=args.steps,
            batch_size=args.batch,
            learning_rate=args.lr,
            cache_bytes=32 << 30,
            report_steps=500,
            int8=not args.no_int8,
            num_loaders=args.loaders,
            checkpoint_steps=args.steps,
        )
        started = time.monotonic()
        network = train(
            parts.training,
            config,
            args.out / "training" / name,
            partial(print, name, flush=True),
        )
        trained = time.monotonic()
        product = make_version(
            network, parts, config, model=name.replace("_", "."), classes=synthetic.CLASSES
        )
        register(Lake(str(args.out)), product.card, product.graphs)
        figures = {
            "shape": name,
            "engine": product.card.name,
            "train_seconds": round(trained - started, 1),
            "version_seconds": round(time.monotonic() - trained, 1),
            "num_parameters": sum(p.numel() for p in network.parameters()),
            "kaggle_dice": product.card.metrics["kaggle_dice"],
            "classes": product.card.metrics["classes"],
            "int8": dataclasses.asdict(product.verdict),
            "steps": args.steps,
            "batch": args.batch,
        }
        with (args.out / "shapes.jsonl").open("a") as sink:
            sink.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)


def _synthetic(out: Path, seed: int, number: int) -> Dataset:
    lake = Lake(str(out / f"synthetic-{seed}"))
    if lake.stat("train.csv") is None:
        write_lake(lake, num_images=number, seed=seed, lines=["1"], dates=["2026-11-21"])
    return open_dataset(lake, lake.read("train.csv"), source="train.csv", num_classes=4)


if __name__ == "__main__":
    main()
