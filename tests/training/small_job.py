"""A training job of seconds, on bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.bands import CLASSES
from training.augment import AugmentConfig
from training.inputs import JobConfig
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
