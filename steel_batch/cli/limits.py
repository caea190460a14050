"""The option `--input-limit`, and the table `[limits]` of a settings file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import click

from steel_batch.cli.values import parse_bytes
from steel_batch.config import Limits
from steel_batch.errors import ConfigError

LIMIT_NAMES: Final = {each.name.replace("_", "-"): each.name for each in dataclasses.fields(Limits)}
"""The fields of `Limits`, by the name that flags and files use."""
LIMITS_OF_FILE: Final = "steel_batch.limits"
"""Key under which a command's context keeps the limits of its settings file."""


def check_limit(where: str, name: str, value: Any) -> int:
    """Check the value of a limit from a settings file or a flag.

    Args:
        where: The file or flag that sets it, for messages.
        name: The field of `Limits`.
        value: A whole number; for a limit in bytes, also a size such as ``64 MiB``.

    Raises:
        ConfigError: The value is of another type.
    """
    is_size = name.endswith("_bytes")
    if is_size and isinstance(value, str):
        return parse_bytes(value)
    if type(value) is not int:
        expected = "a size, such as 67108864 or '64 MiB'" if is_size else "a whole number"
        name = name.replace("_", "-")
        raise ConfigError(f"{where}: limit {name} is {value!r}, expected {expected}.")
    return value


def _read_limits(context: click.Context, option: click.Parameter, given: Sequence[str]) -> Limits:
    values: dict[str, int] = dict(context.meta.get(LIMITS_OF_FILE, {}))
    for text in given:
        name, _, value = text.partition("=")
        field = LIMIT_NAMES.get(name.strip().replace("_", "-"))
        if field is None:
            known = ", ".join(LIMIT_NAMES)
            raise click.BadParameter(
                f"{text!r} is not a limit: expected NAME=VALUE, where NAME is one of: {known}.",
                context,
                option,
            )
        value = value.strip()
        plain: Any = int(value) if value.isdecimal() else value
        values[field] = check_limit("--input-limit", field, plain)
    return Limits(**values)


input_limit_option = click.option(
    "--input-limit",
    "limits",
    multiple=True,
    callback=_read_limits,
    metavar="NAME=VALUE",
    help="Largest image, container or list to read, such as 'object-bytes=256 MiB'. Larger ones "
    "are refused. Repeatable. In a settings file: [limits].",
)
