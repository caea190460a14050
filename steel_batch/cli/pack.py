"""`steel-batch pack`: make shards of loose images."""

from __future__ import annotations

from typing import Any

import click
from rich.progress import Progress

from steel_batch.cli.limits import limit_option
from steel_batch.cli.output import (
    console,
    counted,
    endpoint_option,
    others,
    output_option,
    print_json,
    say,
    size_of,
)
from steel_batch.cli.values import DATE_OR_ALL, PLACE, SIZE
from steel_batch.config import ALL_DATES
from steel_batch.pack.packing import FORMATS, PackConfig
from steel_batch.pack.packing import pack as pack_images


@click.command()
@click.option(
    "--images",
    type=PLACE,
    required=True,
    metavar="URL",
    help="What to pack: anything that score reads.",
)
@click.option("--key-pattern", metavar="PATTERN", help="How keys read, as for score.")
@click.option(
    "--date",
    type=DATE_OR_ALL,
    default=ALL_DATES,
    show_default=True,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every image.",
)
@click.option(
    "--out",
    type=PLACE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of the shards.",
)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="tar",
    show_default=True,
    help="A tar keeps names; Parquet also tags that no name says.",
)
@click.option(
    "--shard-bytes",
    type=SIZE,
    default=256 << 20,
    metavar="BYTES",
    help="Most bytes of one shard.  [default: 256 MiB]",
)
@click.option(
    "--threads", "num_threads", default=4, show_default=True, help="Shards written at once."
)
@limit_option
@endpoint_option
@output_option
def pack(output: str, **options: Any) -> None:
    """Pack images into shards of a stated size.

    Writes [line=…/][date=…/]shard-00000.tar (or .parquet) and beside each an index, .idx, with
    every image's name, place, size and SHA-256. The same images give the same bytes; what is
    packed already is kept, so the same command continues a packing that was stopped.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("packing", total=None)
        result = pack_images(
            PackConfig(**options), lambda shard: progress.advance(task, shard.num_images)
        )
    if output == "json":
        print_json(result)
        return
    kept = f" ({result.num_kept:,} of them were there)" if result.num_kept else ""
    say(
        f"{counted(result.num_images, 'image')} in {counted(result.num_shards, 'shard')}{kept}, "
        f"{size_of(result.bytes)}, in {result.out}"
    )
    if result.num_left_out:
        say(f"left out by their keys: {others(result.num_left_out, result.example_left_out)}")
    say(f"score them with --images {result.out} --key-pattern '{result.key_pattern}'")
