"""The state of a training run that changes with each step, and the device that computes it."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, distributed, nn

from steel_batch.errors import MachineError
from training.batches import Batch, Examples
from training.checkpoint import Best
from training.judge import judge_network
from training.lessons import LEVELS
from training.losses import bce_dice, distillation, lovasz, pool_masks, unpack_bits
from training.model import ContractGraph, Segmenter
from training.recipe import TrainConfig
from training.recorder import Recorder

GREATEST_GRADIENT: Final = 5.0
"""Norm that gradients are clipped to."""
WAYS: Final = ("lr", "fused", "capturable", "foreach")
"""Settings of an optimiser that depend on the device; the learning rate is set in each step."""
AUTOCAST: Final = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Place:
    """The device of this process, and its rank among the processes."""

    device: torch.device
    rank: int
    num_ranks: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and evaluates."""
        return self.rank == 0


class TrainingState:
    """Network, moving average, optimiser and the best weights so far.

    Args:
        config: The recipe.
        num_classes: Number of classes.
        place: The device and rank of this process.
    """

    def __init__(self, config: TrainConfig, num_classes: int, place: Place) -> None:
        torch.manual_seed(config.seed)
        if place.device.type == "cpu":
            torch.set_num_threads(config.num_threads)
        else:
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        self._config = config
        self._place = place
        self._num_classes = num_classes
        self._dtype = AUTOCAST[_precision(config, place.device)]
        self._weight_C = _positive_weight(config, num_classes).to(place.device)
        network = Segmenter(config.model, num_classes).to(place.device)
        self.network = network.to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        means, nows = self.average.state_dict(), self.network.state_dict()
        averaged = [name for name, mean in means.items() if mean.is_floating_point()]
        counted = [name for name in means if name not in averaged]  # by normalisation
        self._means, self._nows = [means[n] for n in averaged], [nows[n] for n in averaged]
        self._mean_counts, self._counts = [means[n] for n in counted], [nows[n] for n in counted]
        self._parameters = list(self.network.parameters())
        is_recorded = _is_recorded(config, place, self._dtype)
        self.optimizer = _make_optimizer(self.network, config, place.device, is_recorded)
        self._scaler = torch.amp.GradScaler(place.device.type, enabled=self._dtype is torch.float16)
        self._group: nn.parallel.DistributedDataParallel | None = None
        self._forward: Callable[[Tensor], Tensor] = self.network
        if place.num_ranks > 1:
            self._group = nn.parallel.DistributedDataParallel(
                self.network, device_ids=[place.device] if place.device.type == "cuda" else None
            )
            self._forward = self._group
        if config.compile:
            self._forward = torch.compile(self._forward)
        self._make: Callable[..., Batch] = lambda *batch: batch
        self._recorder = Recorder(self._learn, place.device) if is_recorded else None
        self._losses: list[Tensor] = []  # still on the device
        self.step = 0
        self.best: Best | None = None
        self.num_worse = 0
        self.is_done = False

    def update(self, step: int, batch: Batch) -> None:
        """Take one training step.

        Args:
            step: The step's number.
            batch: The batch, or the input of `make_crops_by`.
        """
        config, device = self._config, self._place.device
        # If a network uses dropout, a resumed run drops the same activations.
        entropy = np.random.SeedSequence((config.seed, step, self._place.rank))
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        self._set_rate(config.learning_rate * _schedule(step, config))
        if self._recorder is None:
            given = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
            total = self._learn(*given)
        else:
            total = self._recorder.run(batch)
        self._average(min(config.ema_decay, (step + 1) / (step + 10)))
        self.step = step + 1
        self._losses.append(total)

    def make_crops_by(self, make: Callable[..., Batch]) -> None:
        """Make `update` take the input of `make`, which makes crops of it on the device."""
        self._make = make

    def _learn(self, *given: Tensor) -> Tensor:
        """Update the weights with one batch; return its loss."""
        config, device = self._config, self._place.device
        batch = self._make(*given)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        parts = list(zip(*(tensor.chunk(config.accumulate) for tensor in batch), strict=True))
        for number, part in enumerate(parts, start=1):
            with contextlib.ExitStack() as stack:
                if self._group is not None and number < len(parts):
                    stack.enter_context(self._group.no_sync())
                loss = self._loss(*part) / len(parts)
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch's
            total += loss.detach()
        self._scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._parameters, GREATEST_GRADIENT)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return total

    def _loss(self, image_N1HW: Tensor, bitmask_NHW: Tensor, *answers: Tensor) -> Tensor:
        config, device_type = self._config, self._place.device.type
        with torch.autocast(device_type, self._dtype, enabled=self._dtype is not None):
            logits = self._forward(image_N1HW.float() / 255)
        logits = logits.float()
        mask = unpack_bits(bitmask_NHW, self._num_classes)
        target = pool_masks(mask, self.network.stride)
        loss = bce_dice(logits, target, self._weight_C)
        if config.lovasz_weight:
            loss = loss + config.lovasz_weight * lovasz(logits, target)
        for answer in answers:
            answer_NCHW = pool_masks(answer.float() / LEVELS, self.network.stride)
            taught = distillation(logits, answer_NCHW, config.temperature)
            loss = (1 - config.teacher_weight) * loss + config.teacher_weight * taught
        return loss

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def take_loss(self) -> float:
        """Return the mean loss of this process's crops since the last call."""
        loss = float(torch.stack(self._losses).mean())
        self._losses = []
        return loss

    def judge(self, held_out: Examples) -> dict[str, Any]:
        """Evaluate the average, keep it if it is the best, and decide whether to stop."""
        graph = ContractGraph(self.average, (0.5,) * self._num_classes).to(self._place.device)
        metrics = judge_network(graph, held_out)
        present = [c.present_dice for c in metrics.classes if c.present_dice is not None]
        figures = {
            "kaggle_dice": metrics.kaggle_dice,
            "mean_iou": metrics.mean_iou,
            "present_dice": float(np.mean(present)) if present else 0.0,
        }
        figure = figures[self._config.watch]
        if self.best is None or figure > self.best.figure:
            weights = {
                name: value.cpu().clone() for name, value in self.average.state_dict().items()
            }
            self.best = Best(step=self.step, figure=figure, weights=weights)
            self.num_worse = 0
        else:
            self.num_worse += 1
        self.is_done = self._has_lost_patience()
        return {
            "step": self.step,
            **{f"validation_{name}": round(value, 5) for name, value in figures.items()},
            "best_step": self.best.step,
        }

    def result(self) -> Segmenter:
        """Return the best average, or the last one if none was evaluated."""
        result = copy.deepcopy(self.average)
        if self.best is not None:
            result.load_state_dict(self.best.weights)
        return result.eval().to(torch.device("cpu")).to(memory_format=torch.contiguous_format)

    def save(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "step": self.step,
            "losses": self._losses,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": None if self.best is None else self.best.to_dict(),
            "num_worse": self.num_worse,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        ways = [{name: group[name] for name in WAYS} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, way in zip(self.optimizer.param_groups, ways, strict=True):
            group.update(way)  # this device's, whichever device the checkpoint came from
        if saved["scaler"]:  # empty if it was saved without one
            self._scaler.load_state_dict(saved["scaler"])
        self.step, self.num_worse = saved["step"], saved["num_worse"]
        self._losses = saved["losses"]
        self.is_done = self._has_lost_patience()  # by the present recipe
        self.best = None if saved["best"] is None else Best(**saved["best"])

    def _has_lost_patience(self) -> bool:
        patience = self._config.patience
        return patience is not None and self.num_worse >= patience

    def _average(self, decay: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._nows, 1 - decay)
            torch._foreach_copy_(self._mean_counts, self._counts)


def find_place(config: TrainConfig) -> Place:
    """Find this process's device, and its rank in the initialised process group, if any.

    Raises:
        ConfigError: There is no such device, or a batch cannot be divided evenly.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise MachineError(
            "--device cuda, but PyTorch finds no GPU here: use --device auto or cpu."
        )
    on_gpu = has_gpu and config.device != "cpu"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    rank, num_ranks = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    config.check_processes(num_ranks)
    return Place(device, rank, num_ranks)


def _precision(config: TrainConfig, device: torch.device) -> str:
    if device.type == "cpu":
        return "bf16" if config.precision == "bf16" else "fp32"
    if config.precision == "auto":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return config.precision


def _positive_weight(config: TrainConfig, num_classes: int) -> Tensor:
    config.check_classes(num_classes)
    weight = config.positive_weight
    if isinstance(weight, tuple):
        return torch.tensor(weight, dtype=torch.float32)
    return torch.full((num_classes,), float(weight))


def _is_recorded(config: TrainConfig, place: Place, dtype: torch.dtype | None) -> bool:
    """Return whether steps can be replayed: one process, without a loss scale read by the CPU."""
    on_gpu = place.device.type == "cuda"
    return config.resident and on_gpu and place.num_ranks == 1 and dtype is not torch.float16


def _make_optimizer(
    network: Segmenter, config: TrainConfig, device: torch.device, is_recorded: bool
) -> torch.optim.Optimizer:
    """Create AdamW; biases and normalisation have no weight decay."""
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=torch.tensor(config.learning_rate, device=device)
        if is_recorded
        else config.learning_rate,
        weight_decay=config.weight_decay,
        capturable=is_recorded,
        fused=True if device.type == "cuda" else None,
    )


def _schedule(step: int, config: TrainConfig) -> float:
    """Return the learning rate's factor: warm-up, then half a cosine down to a hundredth."""
    warmup = max(1, int(config.warmup_share * config.num_steps))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, config.num_steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
