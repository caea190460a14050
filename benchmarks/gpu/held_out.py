"""Train on a labelled folder with several seeds and judge each on its own held-out part.

    python -m benchmarks.gpu.held_out --images DIR --labels FILE --out FILE.jsonl --recipe aimed
        [--seeds 0,1,2] [--choosing]

The last averaged weights are judged once, at a threshold of one half; beside them the mean over
the eight positions of a square, which costs eight times as much. With `--choosing`, the held-out
part is left alone and a part of the rest is judged: that is how a recipe is chosen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from steel_batch.lake import Lake
from training.augment import AugmentConfig
from training.batches import Examples
from training.dataset import open_dataset, split
from training.judge import judge_network
from training.loop import train
from training.metrics import Judged, Metrics, evaluate
from training.model import ContractGraph
from training.recipe import ModelConfig, TrainConfig

VARIED = AugmentConfig(contrast=0.3, noise=6.0, zoom=0.25, rotate_degrees=15.0)
MIXED = dataclasses.replace(VARIED, mix_share=0.5)
PLAIN = TrainConfig(
    model=ModelConfig(encoder="resnet18"),
    augment=VARIED,
    batch_size=32,
    learning_rate=2e-3,
    clean_share=0.0,
    positive_weight=1.0,
    ema_decay=0.999,
    report_steps=500,
)
LARGE = ModelConfig(encoder="resnet18", input_upscale=2)
RECIPES = {
    "plain": PLAIN,
    "lovasz": dataclasses.replace(PLAIN, lovasz_weight=1.0),
    "mixed": dataclasses.replace(PLAIN, augment=MIXED),
    "large": dataclasses.replace(PLAIN, model=LARGE),
    "large_lovasz": dataclasses.replace(PLAIN, model=LARGE, lovasz_weight=1.0),
    "large_mixed": dataclasses.replace(PLAIN, model=LARGE, augment=MIXED),
    "all": dataclasses.replace(PLAIN, model=LARGE, augment=MIXED, lovasz_weight=1.0),
    "all_r34": dataclasses.replace(
        PLAIN,
        model=dataclasses.replace(LARGE, encoder="resnet34"),
        augment=MIXED,
        lovasz_weight=1.0,
    ),
}


def judge_positions(graph: ContractGraph, examples: Examples) -> Metrics:
    """The figures of the mean over the eight positions of a square image."""

    def seen() -> Iterator[Judged]:
        for index in range(len(examples)):
            image_HW, truth_HW = examples.load(index)
            image = torch.from_numpy(np.ascontiguousarray(image_HW))[None, None]
            logits = mean_logits(graph, image.to(graph.limits.device))[0].cpu().numpy()
            bits = (1 << np.arange(len(logits), dtype=np.uint8))[:, None, None]
            predicted = ((logits > 0) * bits).sum(0).astype(np.uint8)
            yield Judged(predicted_HW=predicted, truth_HW=truth_HW)

    return evaluate(seen(), examples.dataset.num_classes)


@torch.no_grad()
def mean_logits(graph: ContractGraph, image: Tensor) -> Tensor:
    total: Tensor | None = None
    for turns in range(4):
        for is_flipped in (False, True):
            seen = torch.rot90(image, turns, (2, 3))
            logits = graph.logits(seen.flip(3) if is_flipped else seen)
            back = torch.rot90(logits.flip(3) if is_flipped else logits, -turns, (2, 3))
            total = back if total is None else total + back
    assert total is not None
    return total / 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--loaders", type=int)
    parser.add_argument("--choosing", action="store_true")
    args = parser.parse_args()
    dataset = open_dataset(
        Lake(args.images), args.labels.read_bytes(), source=str(args.labels), num_classes=3
    )
    for seed in map(int, args.seeds.split(",")):
        started = time.monotonic()
        learned, held_out = split(dataset, shares=(0.2,), seed=seed)
        if args.choosing:
            learned, held_out = split(learned, shares=(0.2,), seed=seed)
        recipe = RECIPES[args.recipe]
        config = dataclasses.replace(
            recipe,
            num_steps=args.steps,
            checkpoint_steps=args.steps,
            seed=seed,
            compile=args.compile,
            num_loaders=args.loaders,
            weight_decay=args.weight_decay or recipe.weight_decay,
            learning_rate=args.lr or recipe.learning_rate,
        )
        name = f"{args.recipe}-{seed}-{args.steps}-{config.learning_rate}-{config.weight_decay}"
        folder = args.out.parent / (name + ("-choosing" if args.choosing else ""))
        network = train(learned, config, folder, partial(print, name, flush=True))
        trained = time.monotonic()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        graph = ContractGraph(network, (0.5,) * 3).to(device).eval()
        examples = Examples(held_out, dataset.size, 4 << 30)
        metrics, positions = judge_network(graph, examples), judge_positions(graph, examples)
        line = {
            "benchmark": "held_out",
            "recipe": args.recipe,
            "seed": seed,
            "chosen_on": "a fifth of the learned part" if args.choosing else "nothing",
            "mean_iou": metrics.mean_iou,
            "mean_iou_of_eight_positions": positions.mean_iou,
            "class_iou": [c.iou for c in metrics.classes],
            "num_learned": len(learned),
            "num_held_out": len(held_out),
            "train_seconds": round(trained - started, 1),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "config": dataclasses.asdict(config),
            "metrics": dataclasses.asdict(metrics),
            **describe_machine(),
        }
        with args.out.open("a") as sink:
            sink.write(json.dumps(line) + "\n")
        print(
            name, "mean IoU", round(metrics.mean_iou, 4), round(positions.mean_iou, 4),
            [round(c.iou or 0, 3) for c in metrics.classes], line["train_seconds"], flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
