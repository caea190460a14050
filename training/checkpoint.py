"""Checkpoints: the state of a training run in one file that is written completely or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle  # for the error's type; what is read is weights, never objects
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from steel_batch.errors import ConfigError
from steel_batch.lake.format_version import FileFormat
from training.recipe import TrainConfig

FORMAT: Final = FileFormat("a checkpoint")
FREE: Final = frozenset(
    {"cache_bytes", "checkpoint_steps", "compile", "device", "fp16", "int8", "num_loaders",
     "num_threads", "patience", "report_steps", "resident"}
)  # fmt: skip
"""Fields of a recipe that may change when a run is resumed."""
UNREADABLE: Final = (
    AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError,
)  # fmt: skip
"""The errors that reading a damaged file raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best averaged weights so far."""

    step: int
    figure: float
    weights: dict[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that a checkpoint stores."""
        return {"step": self.step, "figure": self.figure, "weights": self.weights}


def write_checkpoint(path: Path, config: TrainConfig, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` atomically, safe against concurrent writers."""
    scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        torch.save(FORMAT.stamp({**state, "recipe": _settings(config)}), scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_checkpoint(
    path: Path, config: TrainConfig, device: torch.device, source: str
) -> dict[str, Any] | None:
    """Read the state at `path`; None if there is no file.

    Args:
        path: The file.
        config: The recipe that the checkpoint must belong to.
        device: The device to load the state to.
        source: The file's name, for messages.

    Raises:
        FormatError: It is of a newer format.
        ConfigError: It is damaged, or belongs to another recipe.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        state = FORMAT.open(found, source=source)
        before = json.loads(state.pop("recipe"))
    except UNREADABLE as error:
        raise ConfigError(
            f"{source} is damaged and cannot be resumed. Delete it and run the same command again: "
            "training then starts from the beginning."
        ) from error
    now = json.loads(_settings(config))
    changed = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    if changed:
        raise ConfigError(
            f"{source} belongs to another recipe: {', '.join(changed)} differ. Use the same "
            "settings to resume it, or another folder to start from the beginning."
        )
    return state


def _settings(config: TrainConfig) -> str:
    fields = dataclasses.asdict(config)
    return json.dumps({name: value for name, value in fields.items() if name not in FREE})


def recipe_digest(config: TrainConfig) -> str:
    """Return a SHA-256 over the settings that a run's weights depend on."""
    return hashlib.sha256(_settings(config).encode()).hexdigest()
