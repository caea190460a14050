"""TAB completion of engines, runs and dates, from the store given on the command line.

Completion never fails and never waits long. If there is no ``--store`` yet, or the store does not
answer, it offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import click

from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.registry import aliases
from steel_batch.runs.record import list_runs

QUICK: Final = Retry(total_seconds=2.0, unreachable_seconds=2.0, max_refusals=1)
MAX_OFFERED: Final = 200

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _of_store(names: Callable[[Lake, str], Iterable[str]]) -> Complete:
    """Return a completion function that reads names from the command line's store."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        url = context.params.get("store")
        if not url:
            return []
        try:
            store = Lake(url, endpoint_url=context.params.get("endpoint_url"), retry=QUICK)
            found = sorted(
                {name for name in names(store, incomplete) if name.startswith(incomplete)}
            )
        except (SteelBatchError, OSError):
            return []
        return found[-MAX_OFFERED:]

    return complete


def _engines(store: Lake, _: str) -> Iterator[str]:
    yield "demo"
    for folder in store.list_dirs("registry/"):
        model = folder.split("/")[1]
        yield from (f"{model}@{alias}" for alias in aliases.names(store, model))
        for version in store.list_dirs(f"registry/{model}/"):
            name = version.split("/")[2]
            if name != "aliases":
                yield f"{model}-{name}"


def _runs(store: Lake, incomplete: str) -> Iterator[str]:
    return iter(list_runs(store, incomplete))


def _dates(store: Lake, incomplete: str) -> Iterator[str]:
    return (run_id[:10] for run_id in list_runs(store, incomplete))


complete_engine: Final = _of_store(_engines)
complete_run: Final = _of_store(_runs)
complete_date: Final = _of_store(_dates)
