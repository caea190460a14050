"""A training run whose state lies in the store, so that any machine can continue it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from steel_batch import layout
from steel_batch.errors import MissingObjectError
from steel_batch.lake import Lake
from training.dataset import Dataset
from training.journal import OnStep
from training.lessons import Lessons
from training.loop import train
from training.model import Segmenter
from training.recipe import TrainConfig

FILES = ("metrics.jsonl", "checkpoint.pt")
"""In the order in which they are saved: a checkpoint never lacks the figures before it."""


def train_stored(
    dataset: Dataset,
    validation: Dataset | None,
    config: TrainConfig,
    store: Lake,
    run: str,
    folder: Path,
    on_step: OnStep = lambda _: None,
    *,
    lessons: Lessons | None = None,
) -> Segmenter:
    """Train, or continue what the store has of this run, and save every checkpoint there.

    Args:
        dataset: What to learn from.
        validation: See `training.loop.train`.
        config: The recipe.
        store: Takes checkpoints and figures.
        run: The run's name.
        folder: Scratch space of this process.
        on_step: Called with what is reported.
        lessons: See `training.loop.train`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        with contextlib.suppress(MissingObjectError):
            (folder / name).write_bytes(store.read(layout.training_file(run, name)))
    source = store.uri(layout.training_file(run, "checkpoint.pt"))

    def save(_: Path) -> None:
        for name in FILES:
            store.write(layout.training_file(run, name), (folder / name).read_bytes())

    return train(
        dataset, config, folder, on_step,
        validation=validation, on_checkpoint=save, source=source, lessons=lessons,
    )  # fmt: skip
