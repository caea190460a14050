"""`steel-batch pack`: pack loose images into containers."""

from __future__ import annotations

import shlex
from typing import Any

import click
from rich.progress import Progress

from steel_batch.cli.limits import input_limit_option
from steel_batch.cli.output import (
    console,
    counted,
    endpoint_option,
    inventory_option,
    links_option,
    others,
    output_option,
    print_json,
    say,
    size_of,
)
from steel_batch.cli.settings import setting
from steel_batch.cli.values import DATE_OR_ALL, PLACE, SIZE
from steel_batch.pack.packing import PackConfig
from steel_batch.pack.packing import pack as pack_images
from steel_batch.pack.shards import FORMATS


@click.command()
@setting(
    "--images",
    of=PackConfig,
    type=PLACE,
    metavar="URL",
    help="Images to pack: anything that score reads.",
)
@setting("--key-pattern", of=PackConfig, metavar="PATTERN", help="Image keys, as for score.")
@setting(
    "--date",
    of=PackConfig,
    type=DATE_OR_ALL,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every image.",
)
@setting(
    "--out",
    of=PackConfig,
    type=PLACE,
    metavar="URL",
    help="Folder or s3:// prefix for the containers.",
)
@setting(
    "--format",
    of=PackConfig,
    type=click.Choice(FORMATS),
    help="tar stores the image's name; parquet also stores tags that are not part of the name.",
)
@setting(
    "--shard-bytes",
    of=PackConfig,
    type=SIZE,
    metavar="BYTES",
    help="Largest size of one container.",
)
@setting("--threads", "num_threads", of=PackConfig, type=int, help="Containers written at once.")
@input_limit_option
@links_option
@inventory_option
@endpoint_option
@output_option
def pack(output: str, **options: Any) -> None:
    """Pack images into containers (shards) of a given size.

    Writes [line=…/][date=…/]shard-00000.tar (or .parquet), and next to each an index (.idx) with
    every image's name, position, size and SHA-256. The same images give the same bytes. Shards of
    the same images are kept, so run the same command again to resume. Others are written again,
    but not if an image in them is no longer listed: then nothing is written, and late images need
    another --out.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("packing", total=None)
        result = pack_images(
            PackConfig(**options), lambda shard: progress.advance(task, shard.num_images)
        )
    if output == "json":
        print_json(result)
        return
    kept = f" ({result.num_kept:,} of them existed already)" if result.num_kept else ""
    say(
        f"{counted(result.num_images, 'image')} in {counted(result.num_shards, 'shard')}{kept}, "
        f"{size_of(result.bytes)}, in {result.out}"
    )
    if result.num_left_out:
        say(f"left out by the key pattern: {others(result.num_left_out, result.example_left_out)}")
    flags = shlex.join(["--images", result.out, "--key-pattern", result.key_pattern])
    say(f"to score them: {flags}")
