"""`steel-batch plan`: show what `score` would do, without doing it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import click

from steel_batch.cli.grouped import GroupedCommand
from steel_batch.cli.output import (
    configure_logging,
    console,
    counted,
    others,
    output_option,
    print_json,
    say,
    size_of,
)
from steel_batch.cli.progress import describe
from steel_batch.cli.score_options import lake_options, limit_option
from steel_batch.cli.settings import setting
from steel_batch.cli.values import DATE_OR_ALL
from steel_batch.config import ScoreConfig
from steel_batch.database import scratch_engine
from steel_batch.pipeline.prepare import plan_date
from steel_batch.pipeline.scope import Scope, open_scope

EXAMPLE: Final = """\
steel-batch plan --date 2026-11-21 \\
  --images s3://lake/images --key-pattern 'line={line}/date={date}/{image_id}.jpg' \\
  --store s3://lake/steel --engine severstal@production"""


@click.command(cls=GroupedCommand, example=EXAMPLE)
@setting(
    "--date",
    type=DATE_OR_ALL,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every date in the keys.",
)
@limit_option
@lake_options
@output_option
def plan(output: str, **options: Any) -> None:
    """Show what score would read, without writing anything.

    Uses the listing, key pattern and committed rows that score would use, so the digest is that of
    the run.
    """
    configure_logging(False)
    scope = open_scope(ScoreConfig(**options), is_read_only=True)
    with scratch_engine():
        for date in scope.dates():
            _show(scope, date, output, rescored=options["rescore_changed"])


def _show(scope: Scope, date: str, output: str, *, rescored: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="steel-batch-") as scratch,
        console.status(f"{date}: planning") as status,
    ):
        planned = plan_date(
            scope.at(date),
            Path(scratch) / "plan.parquet",
            observe=lambda progress: status.update(f"{date}: {describe(progress)}"),
        )
    info = planned.info
    if output == "json":
        print_json(
            {
                "engine": scope.engine_name,
                "date": date,
                "digest": info.digest,
                "num_images": info.num_images,
                "num_shards": info.num_shards,
                "bytes": info.bytes,
                "num_committed": info.num_committed,
                "num_changed": info.num_changed,
                "num_beyond_limit": info.num_beyond_limit,
                "num_left_out": planned.num_left_out,
                "example_left_out": planned.example_left_out,
            }
        )
        return
    say(
        f"{date}: {counted(info.num_images, 'image')} in {counted(info.num_shards, 'shard')}, "
        f"{size_of(info.bytes)}, plan {info.digest[:12]} for {scope.engine_name}"
    )
    if info.num_committed:
        say(f"  left out: {info.num_committed:,} that have a row or quarantine entry")
    if info.num_changed:
        say(
            f"  changed since they were scored: {counted(info.num_changed, 'image')}, "
            f"{'to be scored again' if rescored else 'left out without --rescore-changed'}"
        )
    if info.num_beyond_limit:
        say(f"  beyond --limit: {counted(info.num_beyond_limit, 'image')}, left to a later run")
    if planned.num_left_out:
        said = others(planned.num_left_out, planned.example_left_out)
        say(f"  does not match the key pattern: {said}")
