"""The training loop: crops in, a network with averaged weights out.

The loop is the same on a CPU, on a GPU, and in each of several processes: if a process group of
`torch.distributed` (of Ray Train or torchrun) is initialised, its processes share every batch.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed

from steel_batch import interrupt
from steel_batch.errors import ConfigError, paragraph_of
from training.batches import Examples, Sampler, make_ahead
from training.checkpoint import read_checkpoint, write_checkpoint
from training.dataset import Dataset
from training.journal import Journal, OnStep
from training.lessons import Lessons
from training.model import Segmenter
from training.recipe import TrainConfig
from training.resident import ResidentCrops, fits
from training.state import Place, TrainingState, find_place

__all__ = ["TrainConfig", "train"]

MOST_LOADERS: Final = 16
MOST_CACHED_LOADERS: Final = 4
"""Loader threads if decoded images are cached: more would only compete with the main thread."""


def train(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    on_step: OnStep = lambda _: None,
    *,
    validation: Dataset | None = None,
    on_checkpoint: Callable[[Path], None] = lambda _: None,
    source: str | None = None,
    lessons: Lessons | None = None,
) -> Segmenter:
    """Train a network; resumes from the checkpoint in `folder` if there is one.

    The batches of a step depend only on the seed and the step, so a resumed run sees the same
    batches as an uninterrupted one. On a CPU it ends with bit-identical weights; a GPU's sums have
    no fixed order.

    Args:
        dataset: Training data; its most frequent size is the network's.
        config: The recipe.
        folder: Folder for ``checkpoint.pt`` and ``metrics.jsonl`` (one object per line).
        on_step: Called with each of those objects.
        validation: Examples that select the best weights and stop the training early; without
            them, the last weights are used.
        on_checkpoint: Called with the path of each complete checkpoint.
        source: The checkpoint's name, for messages; None for its path in `folder`.
        lessons: The teachers' predictions, and additional images.

    Returns:
        The averaged network on the CPU, in evaluation mode.

    Raises:
        ConfigError: The recipe does not fit this machine, the data or the checkpoint, or the loss
            became infinite or NaN.
    """
    place = find_place(config)
    state = TrainingState(config, dataset.num_classes, place)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    loaded = read_checkpoint(checkpoint, config, place.device, source or str(checkpoint))
    if loaded is not None:
        state.load(loaded)
    journal = Journal(
        folder / "metrics.jsonl", state.step, on_step,
        source=f"{(source or str(checkpoint)).rpartition('/')[0]}/metrics.jsonl",
        enabled=place.is_first,
    )  # fmt: skip
    examples = Examples(dataset, dataset.size, config.cache_bytes, lessons)
    held_out = (
        Examples(validation, dataset.size, config.cache_bytes) if validation is not None else None
    )
    sampler = Sampler(examples, config, place.rank, place.num_ranks)
    steps = range(state.step, 0 if state.is_done else config.num_steps)
    if steps and config.precision == "fp16" and place.device.type == "cpu":
        raise ConfigError(
            "--precision fp16 needs a GPU to train. On a CPU, use --precision auto, fp32 or bf16."
        )
    started, since = time.monotonic(), state.step
    on_gpu = place.device.type == "cuda"
    num_loaders = _num_loaders(config, place, is_cached=examples.is_cached)
    make = sampler.make
    if steps and on_gpu and config.resident and fits(examples, torch.cuda.mem_get_info()[0]):
        crops = ResidentCrops(examples, config, place.device, _num_cores(MOST_LOADERS))
        state.make_crops_by(crops.make)
        make, num_loaders = (lambda step: crops.numbers(sampler.choose(step))), 1
        started = time.monotonic()
    batches = make_ahead(make, steps, num_loaders, pin_memory=on_gpu)
    shape = _crop_shape(config, dataset, place)
    for step, batch in zip(steps, batches, strict=True):
        interrupt.check()
        with naming_what_does_not_fit(config, shape, is_first=step == steps.start):
            state.update(step, batch)
        last = state.step == config.num_steps
        if last or state.step % config.report_steps == 0:
            record = _report(state)  # waits for the device
            images = (state.step - since) * config.batch_size
            speed = images / max(time.monotonic() - started, 1e-9)
            journal.write(record | {"images_per_second": round(speed, 1)})
            started, since = time.monotonic(), state.step
        if held_out is not None and (last or state.step % config.validate_steps == 0):
            if place.is_first:
                journal.write(state.judge(held_out))
            _agree(state, place)
            started, since = time.monotonic(), state.step
        if place.is_first and (last or state.is_done or state.step % config.checkpoint_steps == 0):
            write_checkpoint(checkpoint, config, state.save())
            on_checkpoint(checkpoint)
        if state.is_done:
            break
    return state.result()


@contextlib.contextmanager
def naming_what_does_not_fit(
    config: TrainConfig, shape: tuple[int, int, int], *, is_first: bool
) -> Iterator[None]:
    """Name the settings that made a step fail.

    All batches have the same shape. So a shape that the network does not accept fails at the first
    step, with one of several errors.

    Args:
        config: The recipe.
        shape: Number of crops in a forward pass, their height and width.
        is_first: Whether this is the first step.
    """
    num_crops, height, width = shape
    model = config.model
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the GPU's memory is too small for {model.architecture} with encoder "
            f"{model.encoder!r} and {num_crops} crop(s) of {height}×{width}. Use a smaller "
            "--batch-size, or a higher accumulate under [recipe] of --config."
        ) from error
    except (AssertionError, RuntimeError, ValueError) as error:
        if not is_first:
            raise
        raise ConfigError(
            f"{model.architecture} with encoder {model.encoder!r} cannot be trained on "
            f"{num_crops} crop(s) of {height}×{width} at once: {paragraph_of(error)}. Use another "
            "--batch-size, --crop-width, --architecture or --encoder."
        ) from error


def _num_loaders(config: TrainConfig, place: Place, *, is_cached: bool) -> int:
    if config.num_loaders is not None:
        return config.num_loaders
    if place.device.type != "cuda":
        return 1
    return _num_cores(MOST_CACHED_LOADERS if is_cached else MOST_LOADERS)


def _num_cores(most: int) -> int:
    return min(most, os.cpu_count() or 1)


def _crop_shape(config: TrainConfig, dataset: Dataset, place: Place) -> tuple[int, int, int]:
    height, width = dataset.size
    num_crops = config.batch_size // place.num_ranks // config.accumulate
    return num_crops, height, min(width, config.augment.crop_width)


def _report(state: TrainingState) -> dict[str, Any]:
    loss = state.take_loss()
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss} at step {state.step}: training diverged. Use a lower "
            "learning_rate, or precision fp32."
        )
    return {
        "step": state.step,
        "loss": round(loss, 4),
        "learning_rate": float(f"{state.optimizer.param_groups[0]['lr']:.4g}"),
    }


def _agree(state: TrainingState, place: Place) -> None:
    """Tell every process whether the first one stops."""
    if place.num_ranks > 1:
        flag = torch.tensor([int(state.is_done)], device=place.device)
        distributed.broadcast(flag, 0)
        state.is_done = bool(flag.item())
