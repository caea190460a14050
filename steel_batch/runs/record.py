"""Runs in a store: their records, their results, and which run a command continues."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from steel_batch import layout
from steel_batch.errors import (
    ConfigError,
    DamagedFileError,
    FormatError,
    LakeError,
    LargeObjectError,
    MissingObjectError,
    NotAFileError,
    OutsideLakeError,
)
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import MAX_BYTES, record_of
from steel_batch.lake.format_version import FileFormat

T = TypeVar("T")

MAX_SHARDS: Final = 100_000_000
"""A run keeps some bytes of each in memory."""
READ_AT_ONCE: Final = 128
"""Runs whose files are read at once, and held in memory."""
UNREADABLE: Final = (
    DamagedFileError, FormatError, LargeObjectError, NotAFileError, OutsideLakeError,
)  # fmt: skip
"""What is wrong with a single file of a run, while others can be read."""
RunState = Literal["committed", "unfinished", "unplanned", "abandoned"]
_FILES: Final = ("run.json", "result.json")
RECORD: Final = FileFormat("the record of a run", newest=2)
RESULT: Final = FileFormat("the result of a run", newest=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """`run.json`: written when a run's plan is durable, never changed."""

    run_id: str
    engine: str
    date: str
    created_at: str
    plan_digest: str
    num_images: int
    num_shards: int
    num_committed: int
    """Images of the date that already had rows when this run was planned."""
    num_changed: int
    """Images whose etag differs from the committed one."""
    num_left_out: int
    """Objects under the prefix that are not images by the key pattern."""
    example_left_out: str | None
    settings: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, str]
    num_retried: int = 0
    """Images of the plan that were in quarantine."""
    num_beyond_limit: int = 0
    """Images without a row that its plan left to a later run."""
    files_digest: str | None = None
    """Digest of the date's committed files when this run was planned; see `committed.digest_files`.
    None in records of earlier versions."""

    def __post_init__(self) -> None:
        """Refuse numbers that no run has.

        Raises:
            ValueError: It names them.
        """
        if not 0 <= self.num_shards <= min(self.num_images, MAX_SHARDS):
            raise ValueError(f"{self.num_images:,} images in {self.num_shards:,} shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """In how many images one class was found."""

    class_id: int
    class_name: str
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """`result.json`: how a run ended. Also what `score --output json` prints."""

    run_id: str | None
    """None if there was nothing to plan: every image already has its row."""
    engine: str
    date: str
    num_images: int
    num_scored: int
    num_quarantined: int
    num_shards: int
    seconds: float
    images_per_second: float
    """In steady state: from the first receipt to the last; for a single shard, while scoring it."""
    startup_seconds: float
    """From the command to the first receipt: plan, Ray, actors, engine."""
    committed: bool
    table_version: int | None
    predictions: str
    """A glob that reads the date's rows."""
    num_committed_before: int = 0
    num_changed: int = 0
    num_left_out: int = 0
    """Objects and folders that are not images, by the key pattern or by their names."""
    example_left_out: str | None = None
    num_retried: int = 0
    """Images that were in quarantine when the run was planned and were scored again."""
    num_bad_again: int = 0
    """How many of those are still in quarantine."""
    num_beyond_limit: int = 0
    """Images without a row that `--limit` left to a later run."""
    num_resumed_shards: int = 0
    num_resumed_images: int = 0
    """Images scored by earlier attempts at the run; not included in `seconds`."""
    classes: tuple[ClassCount, ...] = ()
    attempt_seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each step in the attempt that ended the run: ``command`` (until the attempt
    began, if the command is `score` with one date), ``plan``, ``join`` (the cluster), ``score``,
    ``merge``, ``commit``. Measured from the beginning of ``score``: ``actor``, until the process
    of the first scoring actor ran; ``load``, until an actor, or all of those on GPUs, had loaded
    the engine; ``read``, until the process of the first read task ran; ``shard``, until an actor
    began the first shard; and ``first_receipt``, until that was done.
    """

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> RunResult:
        """Read a result.

        Raises:
            FormatError: It is of a newer format.
            ValueError: It is damaged.
        """
        return record_of(cls, RESULT.load(text, source=source))

    @classmethod
    def from_fields(cls, fields: object, *, source: str) -> RunResult:
        """Read a result that is decoded already.

        Raises:
            FormatError: It is of a newer format.
            ValueError: It is damaged.
        """
        return record_of(cls, RESULT.open(fields, source=source))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run according to its store."""

    run_id: str
    record: RunRecord | None
    """None if a run died before its plan was durable."""
    result: RunResult | None
    """None if it is unfinished or abandoned."""
    is_newest: bool = True
    """Whether no later run of its engine and date exists."""

    @property
    def state(self) -> RunState:
        """``unplanned`` died before its plan was durable; ``abandoned`` was, for a later run."""
        if self.result is not None:
            return "committed"
        if not self.is_newest:
            return "abandoned"
        return "unfinished" if self.record is not None else "unplanned"


def read_runs(store: Lake, run_ids: Sequence[str]) -> Iterator[Run]:
    """Read runs in the given order; `run_ids` must hold all runs of their engines and dates.

    Raises:
        LakeError: A file of a run is damaged.
        FormatError: A file of a run has a newer format.
    """
    for run in try_runs(store, run_ids):
        if isinstance(run, LakeError):
            raise run
        yield run


def try_runs(store: Lake, run_ids: Sequence[str]) -> Iterator[Run | LakeError]:
    """Like `read_runs`; the error of a run takes its place, and the others are read.

    Many files are read at once: a run costs two requests, and those of all runs wait together.
    """
    newest = newest_runs(run_ids)
    for start in range(0, len(run_ids), READ_AT_ONCE):
        batch = run_ids[start : start + READ_AT_ONCE]
        keys = [layout.run_file(run_id, name) for run_id in batch for name in _FILES]
        found = store.read_many([ReadRequest(key=key, max_bytes=MAX_BYTES) for key in keys])
        for run_id, record, result in zip(batch, found[::2], found[1::2], strict=True):
            run: Run | LakeError
            try:
                run = Run(
                    run_id=run_id,
                    record=_parsed(store, run_id, _FILES[0], record, _to_record),
                    result=_parsed(store, run_id, _FILES[1], result, RunResult.from_json),
                    is_newest=run_id in newest,
                )
            except LakeError as error:
                run = error
            yield run


def newest_runs(run_ids: Iterable[str]) -> set[str]:
    """The last run of each engine and date; `run_ids` are in order."""
    return set({layout.split_run_id(run_id)[:2]: run_id for run_id in run_ids}.values())


def read_run(store: Lake, run_id: str, *, is_newest: bool = True) -> Run:
    """Read a run's record and result, as far as they exist.

    Raises:
        LakeError: One of them is damaged.
        FormatError: One of them has a newer format.
    """
    (run,) = read_runs(store, [run_id])
    return dataclasses.replace(run, is_newest=is_newest)


def list_runs(store: Lake, prefix: str = "") -> Iterator[str]:
    """Yield the ids of runs that begin with `prefix`, sorted by date, engine and number.

    Folders that do not belong to a run are skipped.
    """
    found = []
    for folder in store.list_dirs(f"{layout.RUNS}/{prefix}"):
        run_id = folder.rstrip("/").rpartition("/")[2]
        with contextlib.suppress(ConfigError):
            engine, date, number = layout.split_run_id(run_id)
            found.append((date, engine, number, run_id))
    yield from (run_id for *_, run_id in sorted(found))


def latest_run(store: Lake, engine: str, date: str) -> Run | None:
    """The newest run of an engine and date."""
    ids = runs_of(store, engine, date)
    return read_run(store, ids[-1]) if ids else None


def latest_result(store: Lake, engine: str, date: str) -> RunResult | None:
    """The result of the newest run of an engine and date that has one."""
    runs = (read_run(store, run_id) for run_id in reversed(runs_of(store, engine, date)))
    return next((run.result for run in runs if run.result is not None), None)


def runs_of(store: Lake, engine: str, date: str) -> list[str]:
    """The ids of the runs of an engine and date, oldest first."""
    found = list_runs(store, layout.run_prefix(engine, date))
    # One engine's name may be a prefix of another's.
    return [run_id for run_id in found if layout.split_run_id(run_id)[0] == engine]


def put_record(store: Lake, record: RunRecord) -> bool:
    """Record a new run; False if its number is taken."""
    data = RECORD.dump(dataclasses.asdict(record), indent=1)
    return store.put_if_absent(layout.run_file(record.run_id, "run.json"), data)


def put_result(store: Lake, result: RunResult) -> None:
    """Record the result of a run; an existing result is kept."""
    data = RESULT.dump(result.to_json(), indent=1)
    store.put_if_absent(layout.run_file(str(result.run_id), "result.json"), data)


def _to_record(text: bytes, *, source: str) -> RunRecord:
    return record_of(RunRecord, RECORD.load(text, source=source))


def _parsed(
    store: Lake, run_id: str, name: str, data: bytes | LakeError, parse: Callable[..., T]
) -> T | None:
    """One file of a run; None if it does not exist."""
    if isinstance(data, MissingObjectError):
        return None
    if isinstance(data, LakeError):
        raise data
    source = store.uri(layout.run_file(run_id, name))
    try:
        return parse(data, source=source)
    except ValueError as error:
        raise DamagedFileError(
            f"{source} is damaged: {error}. Restore it from a backup, or move its run's folder out "
            "of the store."
        ) from error
