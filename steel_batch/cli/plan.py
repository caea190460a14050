"""`steel-batch plan`: what `score` would do, without doing it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from steel_batch.cli.output import (
    configure_logging,
    counted,
    others,
    output_option,
    print_json,
    say,
    size_of,
)
from steel_batch.cli.score import lake_options
from steel_batch.cli.values import DATE_OR_ALL
from steel_batch.config import ALL_DATES, ScoreConfig
from steel_batch.lake import Lake
from steel_batch.pipeline.prepare import dates_of, plan_date
from steel_batch.registry.versions import load_engine
from steel_batch.sources.open import open_source


@click.command()
@lake_options
@click.option(
    "--date",
    type=DATE_OR_ALL,
    default=ALL_DATES,
    show_default=True,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every date in the keys.",
)
@output_option
def plan(output: str, **options: Any) -> None:
    """Show what score would read, shard by shard in total; nothing is written.

    Uses the same listing, key pattern and committed rows, so the digest is the one that the run
    would have.
    """
    configure_logging(False)
    config = ScoreConfig(**options)
    source = open_source(
        config.images,
        config.key_pattern,
        endpoint_url=config.endpoint_url,
        limits=config.limits,
    )
    store = Lake(config.store, endpoint_url=config.endpoint_url)
    engine = load_engine(config.engine, store=store, require_signed=config.require_signed)
    for date in dates_of(config, source):
        with tempfile.TemporaryDirectory(prefix="steel-batch-") as scratch:
            planned = plan_date(
                config, engine.card.name, date, source, store, Path(scratch) / "plan.parquet"
            )
        info = planned.info
        if output == "json":
            print_json(
                {
                    "engine": engine.card.name,
                    "date": date,
                    "digest": info.digest,
                    "num_images": info.num_images,
                    "num_shards": info.num_shards,
                    "bytes": info.bytes,
                    "num_committed": info.num_committed,
                    "num_changed": info.num_changed,
                    "num_left_out": planned.num_left_out,
                    "example_left_out": planned.example_left_out,
                }
            )
            continue
        say(
            f"{date}: {counted(info.num_images, 'image')} in {counted(info.num_shards, 'shard')}, "
            f"{size_of(info.bytes)}, plan {info.digest[:12]} for {engine.card.name}"
        )
        if info.num_committed or info.num_changed:
            say(
                f"  left out: {info.num_committed:,} that have their row or quarantine entry, "
                f"{info.num_changed:,} that were changed since"
            )
        if planned.num_left_out:
            said = others(planned.num_left_out, planned.example_left_out)
            say(f"  does not match: {said}")
