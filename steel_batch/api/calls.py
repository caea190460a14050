"""The commands that programs need most, as functions: `open_store`, `plan` and `score`."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.pixel_size import parse_pixel_sizes
from steel_batch.config import ScoreConfig
from steel_batch.database import scratch_engine
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.lake.lake import check_store
from steel_batch.runs.events import Observer, Progress
from steel_batch.runs.record import RunResult


@dataclass(frozen=True, kw_only=True, slots=True)
class DatePlan:
    """What `score` would read of one date."""

    engine: str
    date: str
    digest: str
    """Of the plan: that of the run."""
    num_images: int
    num_shards: int
    bytes: int
    num_committed: int
    """Images that have a row or a quarantine entry already."""
    num_changed: int
    """Images that changed since they were scored."""
    num_left_out: int
    """Objects that do not match the key pattern."""


def open_store(
    url: str | os.PathLike[str],
    *,
    endpoint_url: str | None = None,
    as_of: str | int | datetime.date | None = None,
    pixel_mm: Iterable[str] = (),
) -> OpenStore:
    """Open a store for questions, as `steel-batch query` does; use it in a ``with`` block.

    ``store.sql("FROM defects")`` and ``store.view("defects")`` are DuckDB relations over the views
    that `query --help` lists: ``.to_arrow_table()``, ``.df()`` (pandas), ``.pl()`` (Polars).

    Args:
        url: Folder or s3:// prefix of the store.
        endpoint_url: S3 endpoint other than AWS's.
        as_of: A version of the predictions, or a time: what the store was then. Times without a
            zone are of UTC.
        pixel_mm: What a pixel covers, as `--pixel-mm` takes it: ``"0.35"``, ``"2=0.35"``.

    Raises:
        ConfigError: An argument is wrong.
        LakeError: The store cannot be read.
    """
    if not isinstance(url, (str, os.PathLike)):
        raise ConfigError(f"the store is {url!r}, expected a folder or s3://bucket/prefix.")
    store = Lake(check_store(os.fspath(url)), endpoint_url=endpoint_url)
    moment = as_of.isoformat() if isinstance(as_of, datetime.date) else as_of
    text = None if moment is None else str(moment)
    return OpenStore(store, as_of=text, pixel_sizes=parse_pixel_sizes(pixel_mm))


def plan(config: ScoreConfig) -> Iterator[DatePlan]:
    """What `score` would read, date by date; nothing is written.

    Args:
        config: The command's settings.

    Raises:
        ConfigError: The settings are wrong.
        LakeError: The lake or the store cannot be read.
    """
    from steel_batch.pipeline.prepare import plan_date  # these import DuckDB
    from steel_batch.pipeline.scope import open_scope

    scope = open_scope(config, is_read_only=True)
    with scratch_engine():
        for date in scope.dates():
            with tempfile.TemporaryDirectory(prefix="steel-batch-") as scratch:
                planned = plan_date(scope.at(date), Path(scratch) / "plan.parquet")
            info = planned.info
            yield DatePlan(
                engine=scope.engine_name, date=date, digest=info.digest, num_images=info.num_images,
                num_shards=info.num_shards, bytes=info.bytes, num_committed=info.num_committed,
                num_changed=info.num_changed, num_left_out=planned.num_left_out,
            )  # fmt: skip


def score(config: ScoreConfig, observe: Observer | None = None) -> Iterator[RunResult]:
    """Score the dates of a configuration, and yield how each run ended.

    As `steel-batch score`: the same call resumes what was interrupted, and scores nothing twice. A
    run is only made by asking for its result: iterate, or make a list.

    Args:
        config: The command's settings.
        observe: Called with the progress; with all dates from several threads.

    Raises:
        SteelBatchError: See `errors`: what the caller can do about it is its class.
    """
    from steel_batch.pipeline.score import score as score_dates  # imports DuckDB

    yield from score_dates(config, observe or _ignore)


def _ignore(_: Progress) -> None:
    """Show no progress."""
