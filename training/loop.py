"""The training loop: crops in, a network with averaged weights out."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.augment import AugmentConfig, crop
from training.dataset import Dataset
from training.losses import bce_dice, unpack_bits
from training.model import ModelConfig, Segmenter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    num_steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    positive_weight: float = 2.0
    """What a defect pixel weighs against a clean one."""
    clean_share: float = 0.25
    """Of the crops, from images without a defect."""
    ema_decay: float = 0.998
    seed: int = 0
    num_threads: int = 2
    checkpoint_steps: int = 200


def train(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    on_step: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Segmenter:
    """Train a network; continues from `folder`'s checkpoint where there is one.

    The batches of a step depend on the seed and the step alone, so a run that was interrupted and
    continued sees what an undisturbed one sees and ends with the same weights.

    Returns:
        The network with exponentially averaged weights, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.num_threads)
    network = Segmenter(config.model, dataset.num_classes)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    checkpoint = folder / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    weight_C = torch.full((dataset.num_classes,), config.positive_weight)
    folder.mkdir(parents=True, exist_ok=True)
    network.train()
    started, losses = time.monotonic(), []
    for step, (image, bitmask) in enumerate(_batches(dataset, config, start), start=start):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        logits = network(image.float() / 255)
        loss = bce_dice(logits, unpack_bits(bitmask, dataset.num_classes), weight_C)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        _average(average, network, min(config.ema_decay, (step + 1) / (step + 10)))
        losses.append(float(loss))
        done = step + 1
        if done % 50 == 0 or done == config.num_steps:
            record = {
                "step": done,
                "loss": round(float(np.mean(losses)), 4),
                "seconds": round(time.monotonic() - started, 1),
            }
            losses = []
            with (folder / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            on_step(record)
        if done % config.checkpoint_steps == 0 or done == config.num_steps:
            _save(checkpoint, done, network, average, optimizer)
    return average.eval()


def _save(
    path: Path, step: int, network: Segmenter, average: Segmenter, optimizer: torch.optim.Optimizer
) -> None:
    scratch = path.with_suffix(".part")
    torch.save(
        {
            "step": step,
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        scratch,
    )
    scratch.replace(path)


def _schedule(step: int, config: TrainConfig) -> float:
    """Warm-up, then half a cosine down to a hundredth."""
    warmup = max(1, int(config.warmup_share * config.num_steps))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, config.num_steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))


def _average(average: Segmenter, network: Segmenter, decay: float) -> None:
    with torch.no_grad():
        for mean, now in zip(
            average.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if mean.dtype.is_floating_point:
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)


def _batches(dataset: Dataset, config: TrainConfig, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of steps from `start`, made ahead by one thread."""
    by_class: dict[int, list[int]] = {}
    clean = []
    for index, example in enumerate(dataset.examples):
        for class_id in example.masks:
            by_class.setdefault(class_id, []).append(index)
        if not example.masks:
            clean.append(index)

    def make(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        pairs = []
        for _ in range(config.batch_size):
            if clean and (not by_class or rng.random() < config.clean_share):
                pool = clean
            else:  # every class as often as any other, however rare it is
                pool = by_class[sorted(by_class)[int(rng.integers(len(by_class)))]]
            pairs.append(
                crop(*dataset.load(pool[int(rng.integers(len(pool)))]), config.augment, rng)
            )
        images, bitmasks = zip(*pairs, strict=True)
        return (
            torch.from_numpy(np.stack(images)).unsqueeze(1),
            torch.from_numpy(np.stack(bitmasks)),
        )

    with ThreadPoolExecutor(1, "batches") as ahead:
        waiting = [
            ahead.submit(make, step) for step in range(start, min(start + 2, config.num_steps))
        ]
        for step in range(start, config.num_steps):
            if step + 2 < config.num_steps:
                waiting.append(ahead.submit(make, step + 2))
            yield waiting.pop(0).result()
