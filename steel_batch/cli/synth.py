"""`steel-batch synth`: generate a lake of synthetic images."""

from __future__ import annotations

import time

import click
from rich.progress import Progress

from steel_batch.cli.output import (
    console,
    counted,
    endpoint_option,
    output_option,
    print_json,
    say,
    size_of,
)
from steel_batch.cli.values import PLACE
from steel_batch.lake import Lake
from steel_batch.synthetic import CLASSES
from steel_batch.synthetic.writer import write_lake


@click.command()
@click.option(
    "--out", type=PLACE, required=True, metavar="URL", help="Folder or s3:// prefix to write to."
)
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Number of images.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Seed of the random generator; each seed gives other images.",
)
@click.option(
    "--lines", default="1,2", show_default=True, help="Production lines, separated by commas."
)
@click.option(
    "--dates",
    default="2026-11-20,2026-11-21",
    show_default=True,
    help="Dates of the images, separated by commas.",
)
@endpoint_option
@output_option
def synth(
    out: str,
    num_images: int,
    seed: int,
    lines: str,
    dates: str,
    endpoint_url: str | None,
    output: str,
) -> None:
    """Generate strip images with known defects.

    Writes line=…/date=…/<image_id>.jpg (256×1600, about 100 KB each) and one train.csv with the
    exact masks. A seed gives the same images on every machine.
    """
    started = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("drawing", total=num_images)
        made = write_lake(
            Lake(out, endpoint_url=endpoint_url),
            num_images=num_images,
            seed=seed,
            lines=[line.strip() for line in lines.split(",") if line.strip()],
            dates=[date.strip() for date in dates.split(",") if date.strip()],
            on_images=lambda num: progress.advance(task, num),
        )
    seconds = time.monotonic() - started
    if output == "json":
        print_json(
            {
                "out": made.out,
                "num_images": made.num_images,
                "num_defective": made.num_defective,
                "num_masks": dict(zip(CLASSES, made.num_masks, strict=True)),
                "bytes": made.bytes,
                "seconds": round(seconds, 3),
            }
        )
        return
    masks = ", ".join(f"{n} {name}" for name, n in zip(CLASSES, made.num_masks, strict=True))
    say(
        f"{counted(made.num_images, 'image')} ({made.num_defective:,} with defects: {masks}), "
        f"{size_of(made.bytes)}, in {made.out}"
    )
