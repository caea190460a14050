"""Every key of a store and of the lake's conventions, as pure functions.

Keys are relative to the store's root and use ``/``. See docs/reference/store.md.
"""

from __future__ import annotations

import datetime
import re

from steel_batch.errors import ConfigError

PREDICTIONS = "predictions"
CLASS_SUMMARIES = "class_summaries"
QUARANTINE = "quarantine"
MERGED = "merged"
"""Stands for a run's own merged predictions, before earlier rows are added."""
TABLES = (PREDICTIONS, CLASS_SUMMARIES, QUARANTINE)
RUNS = "runs"
FOLDERS = (*TABLES, RUNS, "registry", "locks", "backfills", "training")
"""Folders at the root of a store; a place without any of them is not a store."""
LOG_TAILS = "log_tails.json"
"""The last entries of the three tables' logs together; see `tables.log_tails`."""
TRAINING_REPORT = "report.html"
RUN_REPORT = "report.html"
RUN_ALERTS = "alerts.json"
"""Stored with the card of a version: how it was trained, and its figures."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.]*(?:-[a-z0-9_.]+)*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DATE_PREFIX = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?", re.ASCII)
_DAY_FIRST = re.compile(r"(?P<day>\d{1,2})\.\s?(?P<month>\d{1,2})\.\s?(?P<year>\d{4})", re.ASCII)
"""30.11.2026, which always has the day first; 11/30/2026 is ambiguous in general."""
_ENGINE = re.compile(r"(?P<model>.+)-(?P<version>[0-9a-f]{12})")
_RUN = re.compile(r"(?P<date>\d{4}-\d{2}-\d{2})-(?P<engine>.+-[0-9a-f]{12})-(?P<number>\d{4,})")
_TABLE_FILE = re.compile(
    r"part-(?P<run>\d{4}-\d{2}-\d{2}-.+-[0-9a-f]{12}-\d{4,})-(?P<number>\d{5,})"
    r"(?:-(?P<attempt>\d+))?\.parquet"
)


def check_name(name: str, *, what: str) -> str:
    """Return `name` if it is safe as one path segment, else raise `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used as a name: expected lower-case letters, digits, "
            "'_', '.' and '-', beginning with a letter or digit."
        )
    return name


def check_date(date: str) -> str:
    """Return `date` if it is a calendar day as YYYY-MM-DD, else raise `ConfigError`."""
    if not _DATE.fullmatch(date):
        raise ConfigError(f"date {date!r} is not YYYY-MM-DD, for example 2026-11-21.{_meant(date)}")
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        raise ConfigError(
            f"there is no date {date}; expected YYYY-MM-DD, for example 2026-11-21."
        ) from None
    return date


def check_date_prefix(text: str) -> str:
    """Return `text` if it is a year, a month or a day, else raise `ConfigError`."""
    if _DATE_PREFIX.fullmatch(text):
        check_date(text + "0000-01-01"[len(text) :])
        return text
    raise ConfigError(
        f"date {text!r} is neither YYYY-MM-DD, YYYY-MM nor YYYY, for example 2026-11.{_meant(text)}"
    )


def _meant(text: str) -> str:
    """Suggest the day that a date in another form may mean; empty if that is unknown."""
    match = _DAY_FIRST.fullmatch(text.strip())
    if match is None:
        return ""
    try:
        day = datetime.date(int(match["year"]), int(match["month"]), int(match["day"]))
    except ValueError:
        return ""
    return f" Did you mean {day.isoformat()}?"


def engine_name(model: str, version: str) -> str:
    """The name of one immutable engine: ``<model>-<12 hex>``."""
    return f"{check_name(model, what='model')}-{version}"


def split_engine_name(engine: str) -> tuple[str, str]:
    """Split an engine's name into model and version.

    Raises:
        ConfigError: It is not ``<model>-<12 hex digits>``.
    """
    match = _ENGINE.fullmatch(engine)
    if match is None:
        raise ConfigError(f"engine {engine!r} is not <model>-<12 hex digits>.")
    return match["model"], match["version"]


def partition(engine: str, date: str) -> str:
    """The Hive partition of one engine and date, under a table."""
    return f"engine={engine}/date={date}"


def table_file(
    table: str, engine: str, date: str, run_id: str, number: int, attempt: int = 0
) -> str:
    """The nth file that a run adds to a table. Names never repeat across runs.

    A resumed run that may already have published files publishes again under the names of its new
    attempt. Whoever deletes the leftovers of the earlier attempt, however late, never deletes a
    file that was committed since.
    """
    again = f"-{attempt}" if attempt else ""
    return f"{table}/{partition(engine, date)}/part-{run_id}-{number:05d}{again}.parquet"


def split_table_file(key: str) -> tuple[str, int, int] | None:
    """Return run, number and attempt of a file that a run added to a table, else None."""
    match = _TABLE_FILE.fullmatch(key.rpartition("/")[2])
    if match is None:
        return None
    return match["run"], int(match["number"]), int(match["attempt"] or 0)


def run_prefix(engine: str, date: str) -> str:
    """The common prefix of the ids of all runs of one engine and date."""
    return f"{date}-{engine}-"


def run_id(engine: str, date: str, number: int) -> str:
    """The id of the nth run of one engine and date; ids sort by date, engine and number."""
    return f"{run_prefix(engine, date)}{number:04d}"


def split_run_id(run: str) -> tuple[str, str, int]:
    """Split a run id into engine, date and number.

    Raises:
        ConfigError: It is not a run id.
    """
    match = _RUN.fullmatch(run)
    if match is None:
        raise ConfigError(
            f"{run!r} is not a run id: expected <date>-<engine>-<number>. To list runs: "
            "`steel-batch runs list`."
        )
    return match["engine"], match["date"], int(match["number"])


def run_file(run: str, name: str) -> str:
    """A file of a run: run.json, plan.parquet, result.json, report.html."""
    return f"{RUNS}/{run}/{name}"


def shard_file(run: str, shard: int, digest: str) -> str:
    """The staged rows of one shard; the name contains a digest of the content."""
    return f"{RUNS}/{run}/shards/{shard:07d}-{digest}.parquet"


def receipts_dir(run: str) -> str:
    """The folder of a run's receipts."""
    return f"{RUNS}/{run}/receipts/"


def receipt_file(run: str, shard: int) -> str:
    """The proof that one shard is scored."""
    return f"{receipts_dir(run)}{shard:07d}.json"


def merged_file(run: str, table: str, number: int) -> str:
    """The nth file that a run will add to a table, complete but not yet visible."""
    return f"{RUNS}/{run}/merged/{table}/{number:05d}.parquet"


def replaced_list(run: str, table: str) -> str:
    """The list of the files of a table that a run's files replace."""
    return f"{RUNS}/{run}/files/{table}.replaced.json"


def files_list(run: str, table: str) -> str:
    """The list of the complete files that a run adds to a table, with their digests."""
    return f"{RUNS}/{run}/files/{table}.json"


def lock_series(engine: str, date: str) -> str:
    """The numbered series of lease objects of one engine and date."""
    return f"locks/{partition(engine, date)}"


def turns(what: str) -> str:
    """The folder of writers' flags for taking turns, on a store with a single writer."""
    return f"locks/turns/{what}"


def ledger_dir(identity: str) -> str:
    """The folder in which a backfill records finished dates."""
    return f"backfills/{identity}"


def version_dir(model: str, version: str) -> str:
    """The folder of one version of a model."""
    return f"registry/{model}/{version}"


def card_file(model: str, version: str) -> str:
    """The card of one version."""
    return f"{version_dir(model, version)}/card.json"


def report_file(model: str, version: str) -> str:
    """The page that shows how one version was trained, and its figures."""
    return f"{version_dir(model, version)}/{TRAINING_REPORT}"


def training_run(model: str, identity: str) -> str:
    """The name of a training run: ``<model>-run-<10 hex digits>``, which is never an engine's name.

    Args:
        model: The name of the model.
        identity: A SHA-256 of everything that the weights depend on, in hex.
    """
    return f"{check_name(model, what='model')}-run-{identity[:10]}"


def training_file(run: str, name: str) -> str:
    """A file of a training run: checkpoint.pt, metrics.jsonl."""
    return f"training/{run}/{name}"


def plan_name(machine: str, precision: str, batch_size: int) -> str:
    """The name of a compiled plan: ``<trt>-<sm>-<precision>-b<batch>``."""
    return f"{machine}-{precision}-b{batch_size}"


def plan_lock(engine: str, plan: str) -> str:
    """The numbered series of lease objects for building one plan of one engine."""
    return f"locks/plans/{engine}/{plan}"


def probe_file(token: str) -> str:
    """A small object that tests whether the store can be written; deleted at once."""
    return f"locks/probe-{token}"


def alias_series(model: str, alias: str) -> str:
    """The numbered series of objects that records which version an alias points to."""
    return f"registry/{model}/aliases/{alias}"


def signature_file(model: str, digest: str) -> str:
    """The signature of a document of a model; `digest` covers the document's key and bytes."""
    return f"registry/{model}/signatures/{digest}"
