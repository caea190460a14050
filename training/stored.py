"""A training run whose state is in the store, so that any machine can resume it."""

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
"""In the order of saving: the journal is never behind its checkpoint."""


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
    """Train, or resume the run in the store, and save every checkpoint there.

    Args:
        dataset: Training data.
        validation: See `training.loop.train`.
        config: The recipe.
        store: For checkpoints and figures.
        run: The run's name.
        folder: Folder for temporary files of this process.
        on_step: Called with each report.
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
