"""`steel-batch show`: pictures of scored images with their defects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
import cv2

from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.whole import check_new, new_file, new_folder
from steel_batch.cli.output import counted, existing_store, naming, output_option, print_json, say
from steel_batch.cli.selecting import selection_options
from steel_batch.cli.values import PLACE
from steel_batch.exports.png import safe_path
from steel_batch.exports.selection import Image, Picked, Selection
from steel_batch.report.contact_sheet import contact_sheet, outline
from steel_batch.report.scored_images import ScoredImages

AT_ONCE: Final = 32
"""Images that are read at the same time."""
ON_A_SHEET: Final = 20
MOST_ON_A_SHEET: Final = 500


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="New PNG file to write; with --overlays, a new folder of PNG files.",
)
@selection_options
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Most images to show.  [default: {ON_A_SHEET}; no limit with --overlays]",
)
@click.option("--overlays", is_flag=True, help="Write one PNG per image, at its own size.")
@click.option(
    "--images",
    type=PLACE,
    metavar="URL",
    help="Where the images are now. Default: where their run read them.",
)
@output_option
def show(
    out: Path,
    store: str,
    endpoint_url: str | None,
    limit: int | None,
    overlays: bool,
    images: str | None,
    output: str,
    **selection: Any,
) -> None:
    """Picture scored images with their defects outlined.

    For example, the ten largest scabs: --limit 10 --query "SELECT image_key, date, engine FROM
    defects SEMI JOIN current USING (date, engine) WHERE class_name = 'scabs' ORDER BY area_px
    DESC". If an image is missing or changed since it was scored, the command fails and writes
    nothing.
    """
    with naming("--out", out):
        check_new(out)
    if not overlays:
        limit = ON_A_SHEET if limit is None else limit
        if limit > MOST_ON_A_SHEET:
            raise click.UsageError(
                f"--limit {limit}: a sheet shows at most {MOST_ON_A_SHEET} images. Use --overlays "
                "for more."
            )
    lake = existing_store(store, endpoint_url)
    with OpenStore(lake) as opened:
        picked = Picked(opened, Selection(limit=limit, **selection), by_key=True)
        found = ScoredImages(lake, images).read(picked)
        with naming("--out", out):
            num = _draw_each(found, out) if overlays else _draw_sheet(found, picked, out)
    if output == "json":
        print_json({"images": num, "out": str(out)})
    else:
        say(f"{counted(num, 'image')} in {out}")


def _draw_each(found: Iterable[tuple[Image, Any]], out: Path) -> int:
    num = 0
    with new_folder(out) as folder:
        for num, (image, pixels_HW) in enumerate(found, 1):  # noqa: B007 - counted for the caller
            path = folder / f"{safe_path(image.name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _, png = cv2.imencode(".png", outline(pixels_HW, image.defects))
            path.write_bytes(png.tobytes())
    return num


def _draw_sheet(found: Iterable[tuple[Image, Any]], picked: Picked, out: Path) -> int:
    images, pixels = zip(*found, strict=True)
    rows = [{"image_key": image.key, "defects": image.defects} for image in images]
    names = [picked.classes[number] for number in sorted(picked.classes)]
    with new_file(out) as file:
        file.write(contact_sheet(rows, pixels, names))
    return len(images)
