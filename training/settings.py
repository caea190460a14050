"""A recipe from a TOML file and from flags."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from steel_batch.cli.settings import parse_toml, read_toml
from steel_batch.errors import ConfigError
from training.augment import AugmentConfig
from training.names import check_encoder
from training.recipe import ModelConfig, TrainConfig

TABLES: Final = ("recipe", "model", "augment")
Config = TypeVar("Config", AugmentConfig, ModelConfig, TrainConfig)


def read_recipe(path: Path | None, flags: Mapping[str, Any]) -> TrainConfig:
    """Read the recipe of a file, overridden by flags. PyTorch is not imported.

    The file has the tables ``[recipe]``, ``[model]`` and ``[augment]``, whose keys are the fields
    of `TrainConfig`, `ModelConfig` and `AugmentConfig`.

    Args:
        path: The file; None for the defaults.
        flags: Values by field name of any of the three; None for a flag that was not given.

    Raises:
        ConfigError: A table or key is unknown, or a value is of the wrong type or out of range.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    model = _build(ModelConfig, path, "model", given)
    augment = _build(AugmentConfig, path, "augment", given)
    recipe = _build(TrainConfig, path, "recipe", given)
    if path is not None:
        _refuse_other_tables(path)
    check_encoder(model.encoder)
    return dataclasses.replace(recipe, model=model, augment=augment)


def _refuse_other_tables(path: Path) -> None:
    unknown = sorted(parse_toml(path).keys() - set(TABLES))
    if unknown:
        raise ConfigError(
            f"--config {path} has {', '.join(unknown)} at the top level, expected only the tables "
            f"{', '.join(f'[{table}]' for table in TABLES)}."
        )


def _build(kind: type[Config], path: Path | None, section: str, flags: Mapping[str, Any]) -> Config:
    kinds = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)} - {"model", "augment"}
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(path, section=section, names={name: name for name in names})
    values |= {name: value for name, value in flags.items() if name in names}
    where = f"--config {path}: [{section}]" if path is not None else "the recipe:"
    return kind(
        **{name: _typed(kinds[name], value, f"{where} {name}") for name, value in values.items()}
    )


def _typed(kind: Any, value: Any, where: str) -> Any:
    """Convert a value to its field's type, if TOML or a flag can express it."""
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(number, (int, float)) and not _is_finite(number):
            raise ConfigError(f"{where} is {reprlib.repr(number)}, expected a finite number.")
    choices = typing.get_args(kind) if _is_union(kind) else (kind,)
    for choice in choices:
        if typing.get_origin(choice) is tuple:
            item = typing.get_args(choice)[0]
            if isinstance(value, (list, tuple)) and all(_fits(item, v) for v in value):
                return tuple(item(v) for v in value)
        elif choice is type(None):
            if value is None:
                return None
        elif _fits(choice, value):
            return choice(value)
    names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise ConfigError(f"{where} is {value!r}, expected {names}.")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number above all floats
        return False


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _fits(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
