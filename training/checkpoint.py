"""Checkpoints: a training run's whole state in one file that is there whole or not at all."""

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
"""Fields of a recipe that may change between the two halves of a run."""
UNREADABLE: Final = (
    AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError,
)  # fmt: skip
"""What reading a damaged file raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best average so far."""

    step: int
    figure: float
    weights: dict[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"step": self.step, "figure": self.figure, "weights": self.weights}


def write_checkpoint(path: Path, config: TrainConfig, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`, atomically, whoever else does so at the same time."""
    scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        torch.save(FORMAT.stamp({**state, "recipe": _settings(config)}), scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_checkpoint(
    path: Path, config: TrainConfig, device: torch.device, source: str
) -> dict[str, Any] | None:
    """The state at `path`, or None where there is none.

    Args:
        path: The file.
        config: The recipe that it is to be of.
        device: Takes the state.
        source: Where the file comes from, for messages.

    Raises:
        FormatError: It is of a newer format.
        ConfigError: It is damaged, or of another recipe; continuing would mix two runs.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        state = FORMAT.open(found, source=source)
        before = json.loads(state.pop("recipe"))
    except UNREADABLE as error:
        raise ConfigError(
            f"{source} is not a checkpoint that can be continued: it is damaged. Delete it, and "
            "the same command begins anew."
        ) from error
    now = json.loads(_settings(config))
    changed = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    if changed:
        raise ConfigError(
            f"{source} was made by another recipe ({', '.join(changed)} differ). Give the same "
            "settings to continue it, or another folder to begin anew."
        )
    return state


def _settings(config: TrainConfig) -> str:
    fields = dataclasses.asdict(config)
    return json.dumps({name: value for name, value in fields.items() if name not in FREE})


def recipe_digest(config: TrainConfig) -> str:
    """SHA-256 over what a run's weights depend on."""
    return hashlib.sha256(_settings(config).encode()).hexdigest()
