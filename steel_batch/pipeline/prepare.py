"""Planning a date.

The plan is written to a local file. `steel-batch plan` shows it and stops; a run copies it to the
store.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steel_batch import layout
from steel_batch.errors import ConfigError
from steel_batch.pipeline.scope import DateScope
from steel_batch.runs.events import Observer, Progress
from steel_batch.runs.other_keys import ROWS
from steel_batch.runs.plan import PlanInfo
from steel_batch.runs.planning import build_plan
from steel_batch.sources.contract import NotThere
from steel_batch.sources.undated import ImagesByDate
from steel_batch.tables.committed import DateFiles, files_of_date, known_images, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Planned:
    """A date's plan, and what the listing showed besides."""

    info: PlanInfo
    num_left_out: int
    example_left_out: str | None


def plan_date(
    scope: DateScope,
    path: Path,
    files: DateFiles | None = None,
    *,
    observe: Observer = lambda _: None,
) -> Planned:
    """List a date's images and write the plan of those without a row to a local file.

    Args:
        scope: The date.
        path: The file.
        files: The committed files of the engine and date, if the caller has looked at the tables.
        observe: Called with the number of images listed so far.

    Raises:
        ConfigError: There are no images of that date; or an image in whose key the pattern
            finds no date has another date in its name; or images seem to have rows under other
            keys; or a manifest's images do not exist, as far as they are looked up.
    """
    config, store, date = scope.config, scope.store, scope.date
    if files is None:
        files = files_of_date(store, scope.engine_name, date)
    images = scope.source.select(date)
    dated = ImagesByDate(
        images,
        config.images,
        config.key_pattern,
        date,
        note=lambda num_listed: observe(Progress(step="planning", num_done=num_listed)),
    )
    info = build_plan(
        dated,
        scope.settings,
        path,
        known=known_images(store, files),
        is_seen=scope.source.is_seen,
        rows=partial(read_rows, store, files[layout.PREDICTIONS], ROWS),
        lake=scope.source.lake,
    )
    if dated.warning is not None:
        log.warning("%s", dated.warning)
    if not config.allow_other_keys:
        _refuse_other_keys(info, date)
    if info.num_images + info.num_committed + info.num_changed == 0:
        raise images.explain_empty()
    if info.num_images:
        _say_what_is_not_there(scope, images.not_there, dated.num_images)
    return Planned(info, images.num_left_out, images.example_left_out)


def _say_what_is_not_there(scope: DateScope, not_there: NotThere, num_images: int) -> None:
    """Warn of listed images that do not exist.

    Raises:
        ConfigError: None of them does.
    """
    if not not_there.num:
        return
    said = (
        f"{not_there.num:,} of {num_images:,} images of {scope.date} that {scope.config.images} "
        f"lists are not there, for example {not_there.example!r}: keys are relative to "
        f"{scope.source.lake.url}."
    )
    if not_there.num == num_images:
        raise ConfigError(
            f"{said} Nothing was planned: correct --images or the keys. A copy of a manifest in "
            "another folder refers to images there."
        )
    log.warning("%s They will be quarantined as 'missing'.", said)


def _refuse_other_keys(info: PlanInfo, date: str) -> None:
    """Refuse images that seem to have a row under another key.

    Raises:
        ConfigError: It names an example, and the flag that allows them.
    """
    num_new = info.num_images + info.num_beyond_limit
    is_any_known = info.num_committed + info.num_changed + info.num_retried > 0
    if info.example_other_keys is not None:
        now, before = info.example_other_keys
        found = (
            f"{info.num_other_keys:,} of the {num_new:,} images to score on {date} seem to have a "
            "row already, under a key that is not listed now; for example "
            f"{now!r} as {before!r}."
        )
    elif info.num_gone and info.num_images and not is_any_known:
        found = (
            f"{info.num_gone:,} images of {date} already have a row or a quarantine entry, but "
            f"none of them is among the {num_new:,} that are listed now."
        )
    else:
        return
    raise ConfigError(
        f"{found} Images are identified by their key, so the same images under another --images, "
        "or packed, would be counted twice. Use the --images and --key-pattern of the earlier "
        "runs, or another --store. If these are other images, add --allow-other-keys."
    )
