"""A training job of seconds, on bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.bands import CLASSES
from training.augment import AugmentConfig
from training.inputs import JobConfig
from training.job import run_job
from training.recipe import ModelConfig, TrainConfig

RECIPE = TrainConfig(
    model=ModelConfig(encoder="narrow16", decoder_channels=(16, 16, 16, 16, 16), output_stride=2),
    augment=AugmentConfig(crop_width=64),
    num_steps=12,
    batch_size=4,
    report_steps=3,
    checkpoint_steps=3,
    validate_steps=6,
    learning_rate=5e-3,
    ema_decay=0.5,
    num_threads=1,
    device="cpu",
)


def job(images: Path, store: Path, **changes: Any) -> JobConfig:
    settings: dict[str, Any] = {
        "images": str(images),
        "labels": "train.csv",
        "store": str(store),
        "model": "bands",
        "classes": CLASSES,
        "validation_share": 0.2,
        "test_share": 0.2,
    }
    return JobConfig(**(settings | changes))


class BegunError(Exception):
    """Ends a job when its training begins."""


def begin(settings: JobConfig, config: TrainConfig) -> list[str]:
    """What a job says up to the beginning of its training, which does not take place."""
    said: list[str] = []

    def stop(stage: str) -> None:
        said.append(stage)
        if stage.startswith(("training ", "resuming ")):
            raise BegunError

    try:
        run_job(settings, config, on_stage=stop)
    except BegunError:
        return said
    raise AssertionError("the job ended without a training")


def run_of(settings: JobConfig, config: TrainConfig) -> str:
    """The name of a job's run."""
    return begin(settings, config)[-1].split()[1].rstrip(":")
