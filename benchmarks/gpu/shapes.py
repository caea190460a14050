"""Train several shapes of network the same way on synthetic strips, and make a version of each.

    python -m benchmarks.gpu.shapes --out DIR [--steps 2000] [--shapes r18,r18_s2,…] [--seed 1]
    python -m benchmarks.gpu.shapes --out DIR --shapes r10_c16_48 --teacher r18 --teacher-seeds 0,1

Each version lands in ``DIR/registry/<shape>/<version>/``, its figures in ``DIR/shapes.jsonl``. Run
it on a GPU host; how fast each version is there is for `benchmarks.gpu.engines` to say.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from steel_batch import synthetic
from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.synthetic.writer import write_lake
from training.batches import Examples
from training.dataset import Dataset, open_dataset
from training.judge import judge_network
from training.lessons import Lessons, pack
from training.loop import train
from training.model import ContractGraph, Segmenter
from training.recipe import ModelConfig, TrainConfig
from training.register import Parts, make_version

NARROW = (128, 64, 48, 32, 16)
SLIM = (96, 48, 32, 32, 16)
R18 = ModelConfig(encoder="resnet18")
FOLDED = replace(R18, input_stride=2, fold="channels", head="subpixel")
STOPPED = replace(R18, output_stride=4, head="subpixel")
SHAPES = {
    "r18": R18,
    "r18_s2": replace(R18, output_stride=2),
    "r18_half": replace(R18, input_stride=2),
    "r18_fold": FOLDED,
    "r18_fold_s2": replace(FOLDED, output_stride=2),
    "r18_fold_narrow": replace(FOLDED, decoder_channels=NARROW),
    "r18_s4": STOPPED,
    "r18_s4_narrow": replace(STOPPED, decoder_channels=NARROW),
    "r10_s4_narrow": replace(STOPPED, encoder="residual10", decoder_channels=NARROW),
    "r10_s4_slim": replace(STOPPED, encoder="residual10", decoder_channels=SLIM),
    "r10_c16_48": replace(
        STOPPED,
        encoder="residual10",
        encoder_channels=(16, 48, 96, 192, 256),
        decoder_channels=SLIM,
    ),
    "r10_c16_32": replace(
        STOPPED,
        encoder="residual10",
        encoder_channels=(16, 32, 64, 128, 256),
        decoder_channels=SLIM,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--test", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--no-int8", action="store_true")
    parser.add_argument("--loaders", type=int)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", help="a shape that was trained before with --teacher-seeds")
    parser.add_argument("--teacher-seeds", default="0")
    parser.add_argument("--teacher-weight", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--not-resident", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-version", action="store_true", help="judge the network alone")
    args = parser.parse_args()
    test = _synthetic(args.out, 3, args.test)
    parts = Parts(
        training=_synthetic(args.out, 1, args.images),
        validation=_synthetic(args.out, 2, args.held_out),
        test=test.subset(range(args.held_out)),
    )
    recipe = TrainConfig(
        num_steps=args.steps,
        batch_size=args.batch,
        learning_rate=args.lr,
        cache_bytes=32 << 30,
        report_steps=250,
        int8=not args.no_int8,
        num_loaders=args.loaders,
        checkpoint_steps=args.steps,
        resident=not args.not_resident,
        compile=args.compile,
    )
    lessons = None
    if args.teacher is not None:
        seeds = [int(seed) for seed in args.teacher_seeds.split(",")]
        configs = [replace(recipe, model=SHAPES[args.teacher], seed=seed) for seed in seeds]
        folders = [args.out / "training" / f"{args.teacher}-{seed}" for seed in seeds]
        networks = [  # they are trained: this loads them
            train(parts.training, config, folder)
            for config, folder in zip(configs, folders, strict=True)
        ]
        started = time.monotonic()
        lessons = _lessons(networks, parts.training, args.temperature)
        print("lessons", round(time.monotonic() - started, 1), "s", flush=True)
        recipe = replace(
            recipe,
            teachers=tuple(folder.name for folder in folders),
            teacher_weight=args.teacher_weight,
            temperature=args.temperature,
        )
    for name in filter(None, args.shapes.split(",")):
        config = replace(recipe, model=SHAPES[name], seed=args.seed)
        taught = "-taught" if lessons is not None else ""
        reports: list[dict[str, Any]] = []
        started = time.monotonic()
        network = train(
            parts.training,
            config,
            args.out / "training" / f"{name}-{args.seed}{taught}",
            partial(_report, name, reports),
            lessons=lessons,
        )
        trained = time.monotonic()
        figures = {
            "benchmark": "gpu_shapes",
            "shape": name,
            "seed": args.seed,
            "teachers": config.teachers,
            "teacher_weight": args.teacher_weight,
            "temperature": args.temperature,
            "resident": config.resident,
            "compile": config.compile,
            "train_seconds": round(trained - started, 1),
            "crops_per_second": [report["images_per_second"] for report in reports],
            "num_parameters": sum(p.numel() for p in network.parameters()),
        }
        if args.no_version:
            figures |= _judge(network, (0.5,) * 4, test)
        else:
            model = name.replace("_", ".") + taught.replace("-", ".")
            product = make_version(network, parts, config, model=model, classes=synthetic.CLASSES)
            register(Lake(str(args.out)), product.card, product.graphs)
            figures |= {
                "engine": product.card.name,
                "version_seconds": round(time.monotonic() - trained, 1),
                **_judge(network, product.card.thresholds, test),
                "int8": dataclasses.asdict(product.verdict),
            }
        figures |= {
            "steps": args.steps,
            "batch": args.batch,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            **describe_machine(),
        }
        with (args.out / "shapes.jsonl").open("a") as sink:
            sink.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)


def _report(name: str, reports: list[dict[str, Any]], record: dict[str, Any]) -> None:
    reports.append(record)
    print(name, record, flush=True)


def _lessons(networks: list[Segmenter], dataset: Dataset, temperature: float) -> Lessons:
    """As `training.teacher` makes them of versions, and on the device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = [network.to(device).eval() for network in networks]
    answers = []
    for start in range(0, len(dataset), 16):
        indices = range(start, min(start + 16, len(dataset)))
        images = np.stack([dataset.load(index)[0] for index in indices])
        scaled = torch.from_numpy(images).unsqueeze(1).to(device) / 255
        with torch.no_grad():
            said = [torch.sigmoid(network(scaled) / temperature) for network in networks]
        answers += [pack(mean) for mean in torch.stack(said).mean(0).cpu().numpy()]
    height, width = dataset.size
    return Lessons(answers=answers, shape_CHW=(dataset.num_classes, height, width))


def _judge(network: Segmenter, thresholds: tuple[float, ...], test: Dataset) -> dict[str, Any]:
    """Of every test image, on the device, without minimum areas."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph = ContractGraph(copy.deepcopy(network), thresholds).to(device)
    metrics = judge_network(graph, Examples(test, test.size, 0))
    present = [c.present_dice for c in metrics.classes if c.present_dice is not None]
    return {
        "num_test_images": len(test),
        "kaggle_dice": metrics.kaggle_dice,
        "mean_present_dice": sum(present) / len(present),
        "classes": [dataclasses.asdict(c) for c in metrics.classes],
    }


def _synthetic(out: Path, seed: int, number: int) -> Dataset:
    lake = Lake(str(out / f"synthetic-{seed}"))
    if lake.stat("train.csv") is None:
        write_lake(lake, num_images=number, seed=seed, lines=["1"], dates=["2026-11-21"])
    return open_dataset(lake, lake.read("train.csv"), source="train.csv", num_classes=4)


if __name__ == "__main__":
    main()
