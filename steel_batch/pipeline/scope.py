"""What every step of a command works with, opened once and passed as one object."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from steel_batch import layout
from steel_batch.config import ALL_DATES, ScoreConfig
from steel_batch.lake import Lake
from steel_batch.lake.lake import check_store
from steel_batch.lake.probe import writable
from steel_batch.registry.versions import Engine, load_engine
from steel_batch.sources.contract import Source
from steel_batch.sources.open import open_source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One command: its configuration, and the objects that the configuration names."""

    config: ScoreConfig
    engine: Engine
    source: Source
    store: Lake
    command_started: float | None = None
    """When the command began, in seconds of the monotonic clock; None if that is not known, or if
    the command does more than to score one date."""

    @property
    def engine_name(self) -> str:
        """The name of the resolved engine version."""
        return self.engine.card.name

    def dates(self) -> list[str]:
        """Return the dates that the configuration selects, in order.

        Raises:
            ConfigError: It is not a date, or the image keys contain no date.
        """
        if self.config.date == ALL_DATES:
            return self.source.dates()
        return [layout.check_date(self.config.date)]

    def at(self, date: str) -> DateScope:
        """Return the scope of one date."""
        return DateScope(
            config=self.config,
            engine=self.engine,
            source=self.source,
            store=self.store,
            command_started=self.command_started,
            date=date,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DateScope(Scope):
    """One date of a command; a run belongs to one date."""

    date: str
    """YYYY-MM-DD."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the date's plan depends on."""
        return self.config.settings(engine=self.engine_name, date=self.date)

    @property
    def predictions_glob(self) -> str:
        """A glob pattern that matches the date's rows as plain Parquet files."""
        partition = layout.partition(self.engine_name, self.date)
        return self.store.uri(f"{layout.PREDICTIONS}/{partition}/*.parquet")


def open_scope(config: ScoreConfig, *, is_read_only: bool = False) -> Scope:
    """Open what a configuration names.

    Arrow allocates from the system's heap from then on: its own allocator returns pages to the
    system and takes fresh ones again and again while millions of images are planned, and keeps
    more of them.

    Args:
        config: The command.
        is_read_only: Whether the command writes nothing; then the store is not probed for
            concurrent writers.

    Raises:
        ConfigError: The configuration names no source, store or engine.
        LakeError: The lake or the store cannot be read, or the store cannot decide between two
            writers.
        EngineError: The engine is damaged.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    source = open_source(
        config.images,
        config.key_pattern,
        endpoint_url=config.endpoint_url,
        limits=config.limits,
        follow_links=config.follow_links,
        inventory_buckets=config.inventory_buckets,
    )
    store = Lake(check_store(config.store), endpoint_url=config.endpoint_url)
    if not is_read_only:
        store = writable(store, single_writer=config.unsafe_single_writer)
    engine = load_engine(config.engine, store=store, require_signed=config.require_signed)
    _compare_bits(engine, config.bits)
    return Scope(config=config, engine=engine, source=source, store=store)


def _compare_bits(engine: Engine, bits: int | None) -> None:
    """Warn if an engine was trained with other bits: its images were darker or brighter.

    A command without bits needs no warning: images that do not show their bits are quarantined.
    """
    data = engine.card.recipe.get("data")
    trained = data.get("bits") if isinstance(data, Mapping) else None
    if trained is not None and bits is not None and trained != bits:
        log.warning(
            "engine %s was trained with --bits %s, but this command has --bits %s: images can be "
            "darker or brighter than those it was trained on. Use --bits %s, unless these images "
            "are of another camera.",
            engine.card.name,
            trained,
            bits,
            trained,
        )
