"""Train on a labelled folder with several seeds and judge each on its own held-out part.

    python -m benchmarks.gpu.held_out --images DIR --labels FILE --out FILE.jsonl [--seeds 0,1,2]

Nothing of the held-out part is looked at while training: the last averaged weights are judged once,
at a threshold of one half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path

import torch

from steel_batch.lake import Lake
from training.augment import AugmentConfig
from training.batches import Examples
from training.dataset import open_dataset, split
from training.judge import judge_network
from training.loop import train
from training.model import ContractGraph, ModelConfig
from training.recipe import TrainConfig

RECIPES = {
    "plain": (AugmentConfig(), ModelConfig(encoder="resnet34")),
    "varied": (
        AugmentConfig(contrast=0.3, noise=6.0, zoom=0.25, rotate_degrees=15.0),
        ModelConfig(encoder="resnet34"),
    ),
    "varied_r18": (
        AugmentConfig(contrast=0.3, noise=6.0, zoom=0.25, rotate_degrees=15.0),
        ModelConfig(encoder="resnet18"),
    ),
    "varied_wide": (
        AugmentConfig(contrast=0.3, noise=6.0, zoom=0.25, rotate_degrees=15.0),
        ModelConfig(encoder="tu-convnext_tiny", architecture="Unet"),
    ),
    "varied_plus": (
        AugmentConfig(contrast=0.3, noise=6.0, zoom=0.25, rotate_degrees=15.0),
        ModelConfig(encoder="resnet34", architecture="UnetPlusPlus"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", default="varied")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--loaders", type=int)
    args = parser.parse_args()
    dataset = open_dataset(
        Lake(args.images), args.labels.read_bytes(), source=str(args.labels), num_classes=3
    )
    for recipe in args.recipes.split(","):
        augment, model = RECIPES[recipe]
        for seed in map(int, args.seeds.split(",")):
            started = time.monotonic()
            learned, held_out = split(dataset, shares=(0.2,), seed=seed)
            config = TrainConfig(
                model=model,
                augment=augment,
                num_steps=args.steps,
                batch_size=args.batch,
                learning_rate=args.lr,
                clean_share=0.0,
                positive_weight=1.0,
                ema_decay=0.999,
                seed=seed,
                report_steps=1000,
                checkpoint_steps=args.steps,
                num_loaders=args.loaders,
            )
            folder = args.out.parent / f"{recipe}-{seed}-{args.steps}-{args.lr}"
            network = train(learned, config, folder, partial(print, recipe, flush=True))
            device = "cuda" if torch.cuda.is_available() else "cpu"
            graph = ContractGraph(network, (0.5,) * 3).to(device).eval()
            metrics = judge_network(graph, Examples(held_out, dataset.size, 4 << 30))
            line = {
                "recipe": recipe,
                "seed": seed,
                "mean_iou": metrics.mean_iou,
                "num_learned": len(learned),
                "num_held_out": len(held_out),
                "seconds": round(time.monotonic() - started, 1),
                "config": dataclasses.asdict(config),
                "metrics": dataclasses.asdict(metrics),
            }
            with args.out.open("a") as sink:
                sink.write(json.dumps(line) + "\n")
            print(recipe, seed, "mean IoU", round(metrics.mean_iou, 4), line["seconds"], flush=True)


if __name__ == "__main__":
    main()
