"""Fields of a configuration as command-line options, and as settings of the `--config` file.

An option that sets a field has the field's default.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from steel_batch.cli.limits import LIMIT_NAMES, LIMITS_OF_FILE, check_limit
from steel_batch.cli.output import Command
from steel_batch.cli.values import DATE, DATE_OR_ALL, SIZE, size_text
from steel_batch.config import ScoreConfig
from steel_batch.errors import ConfigError
from steel_batch.lake.files import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def setting(
    flag: str, name: str | None = None, *, of: type = ScoreConfig, **attributes: Any
) -> Callable[[Command], Command]:
    """Return an option that sets a configuration's field; required if the field has no default.

    Args:
        flag: The flag, with its dashes.
        name: The field; None if the flag spells it.
        of: The configuration.
        attributes: Arguments of `click.option`.
    """
    name = name or flag.removeprefix("--").replace("-", "_")
    (field,) = (field for field in dataclasses.fields(of) if field.name == name)
    default = field.default
    if default is dataclasses.MISSING:
        attributes["required"] = True
    elif isinstance(default, bool):
        attributes["is_flag"] = True
    elif default is not None:
        is_size = attributes.get("type") is SIZE
        attributes |= {"default": size_text(default) if is_size else default, "show_default": True}
    return click.option(flag, name, **attributes)


def read_settings(context: click.Context, path: Path, others: Sequence[click.Command]) -> None:
    """Use a file's settings as defaults of the command being run.

    Args:
        context: The command's context.
        path: The file.
        others: The other commands that the file is for. Settings of theirs that the command being
            run does not have are ignored.

    Raises:
        ConfigError: The file cannot be read, has neither [score] nor [limits], names an unknown
            setting, or has a value of another type.
    """
    limits = read_toml(path, section="limits", names=LIMIT_NAMES)
    context.meta[LIMITS_OF_FILE] = {
        name: check_limit(f"--config {path}", name, value) for name, value in limits.items()
    }
    own, known, options = settings_of(context.command), dict[str, str](), dict[str, Any]()
    for command in (*others, context.command):
        known |= settings_of(command)
        options |= {str(option.name): option for option in command.params}
    found = read_toml(path, section="score", names=known, is_required=not limits)
    for name, value in found.items():
        _check_kind(path, options[name], value)
    context.default_map = {k: v for k, v in found.items() if k in own.values()}


def _check_kind(path: Path, option: click.Parameter, value: Any) -> None:
    """Refuse a value of another type: click would convert 3.7 to 3, and true to 1.

    Raises:
        ConfigError: It names the key, the value and the expected type.
    """
    flag = option.opts[-1].removeprefix("--")
    kinds: tuple[type, ...]
    if getattr(option, "is_flag", False):
        kinds, expected = (bool,), "true or false"
    elif isinstance(option.type, click.types.IntParamType):
        kinds, expected = (int,), "a whole number"
    elif isinstance(option.type, click.types.FloatParamType):
        kinds, expected = (int, float), "a number"
    elif getattr(option, "multiple", False):
        kinds, expected = (list,), "a list of quoted strings, such as ['a', 'b']"
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            kinds = ()
    elif option.type is SIZE:
        kinds, expected = (int, str), "a size, such as 67108864 or '64 MiB'"
    elif option.type in (DATE, DATE_OR_ALL):
        kinds, expected = (str, datetime.date), "a date"
    else:
        kinds, expected = (str,), "a quoted string"
    is_bool = isinstance(value, bool) and bool not in kinds
    is_time = isinstance(value, datetime.datetime)
    if is_bool or is_time or not isinstance(value, kinds):
        raise ConfigError(f"--config {path}: {flag} is {value!r}, expected {expected}.")


def settings_of(command: click.Command) -> dict[str, str]:
    """Return the settings that a file may contain for a command: parameters by flag name."""
    return {
        option.opts[-1].removeprefix("--"): str(option.name)
        for option in command.params
        if isinstance(option, click.Option) and option.name not in ("config", "limits")
    }


def parse_toml(path: Path) -> dict[str, Any]:
    """Parse a configuration file.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    try:
        # Editors on Windows write a byte-order mark before the text.
        return tomllib.loads(read_regular(path).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path} is not TOML: it is not text in UTF-8. Save it as UTF-8."
        ) from error
    except ValueError as error:  # also a number with more digits than Python reads
        raise ConfigError(f"--config {path} is not TOML: {error}.") from error


def read_toml(
    path: Path, *, section: str, names: Mapping[str, str], is_required: bool = False
) -> dict[str, Any]:
    """Read one command's section of a configuration file.

    Args:
        path: The TOML file.
        section: The table to read, such as ``score``.
        names: The settings by the names that a file may use. A setting's own name is accepted
            too, and ``-`` and ``_`` are the same.
        is_required: Whether a file without that table is refused; otherwise it sets nothing.

    Returns:
        Values by setting.

    Raises:
        ConfigError: The file cannot be read, is not TOML, has no such table, or contains an
            unknown key.
    """
    document = parse_toml(path)
    if is_required and section not in document:
        raise ConfigError(f"--config {path} has no [{section}] table.")
    table = document.get(section, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"--config {path}: [{section}] is not a table.")
    known = {name.replace("-", "_"): name for name in names.values()}
    known |= {name.replace("-", "_"): setting for name, setting in names.items()}
    unknown = sorted(key for key in table if key.replace("-", "_") not in known)
    if unknown:
        raise ConfigError(
            f"--config {path}: [{section}] has unknown keys: {', '.join(unknown)}. "
            f"Expected: {', '.join(sorted(names))}."
        )
    return {known[key.replace("-", "_")]: value for key, value in table.items()}
