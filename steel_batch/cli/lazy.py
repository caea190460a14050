"""A group of commands that are imported only when they are called.

`steel-batch --help`, `--version` and the completion of command names import no command: they read
the group's table.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group that knows each command's name, location and summary.

    Args:
        table: Per command, ``module:attribute`` and its line in the list of commands.
        options: The options of `click.Group`.
    """

    def __init__(self, *, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(**options)
        self._summaries = {name: summary for name, (_, summary) in sorted(table.items())}
        places = {name: place for name, (place, _) in table.items()}
        self.commands = _Imported(places)  # type: ignore[assignment]  # nothing adds to it

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name from the table, and the group's own options."""
        commands = [
            CompletionItem(name, help=summary)
            for name, summary in self._summaries.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)


class _Imported(Mapping[str, click.Command]):
    """Commands by name, each imported on access."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self._places[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
