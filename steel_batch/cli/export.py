"""`steel-batch export`: write defects in the formats of other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.whole import check_new, new_file, new_folder
from steel_batch.cli.output import counted, existing_store, naming, output_option, print_json, say
from steel_batch.cli.selecting import selection_options
from steel_batch.exports.coco import write_coco
from steel_batch.exports.kaggle import LAYOUTS, write_kaggle
from steel_batch.exports.png import write_png
from steel_batch.exports.selection import Image, Picked, Selection

FORMATS: Final = ("kaggle", "coco", "cvat", "png", "fiftyone")
CVAT_FILE: Final = "annotations/instances_default.json"
FIFTYONE_FILE: Final = "labels.json"


@click.command()
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="See above.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="New file to write; for cvat, png and fiftyone, a new folder.",
)
@selection_options
@click.option(
    "--names",
    type=click.Choice(["file", "key"]),
    help="Name images by their file name, or by their whole key under --images.  [default: file "
    "for kaggle, key for the others]",
)
@click.option(
    "--kaggle-layout",
    type=click.Choice(LAYOUTS),
    default=LAYOUTS[0],
    show_default=True,
    help="Rows of ImageId,ClassId,EncodedPixels, one per defect; or of "
    "ImageId_ClassId,EncodedPixels, one per class of every image.",
)
@output_option
def export(
    kind: str,
    out: Path,
    store: str,
    endpoint_url: str | None,
    names: str | None,
    kaggle_layout: str,
    output: str,
    **selection: Any,
) -> None:
    """Write defects for another program to read.

    \b
    kaggle    one CSV in the format of the Severstal competition
    coco      one JSON of instances, masks as compressed run-lengths
    cvat      a folder to import into CVAT as "COCO 1.0"
    png       a folder of masks, one per image and class, and an index
    fiftyone  a folder to import into FiftyOne as COCODetectionDataset

    Images are not copied. --out is written completely or not at all.
    """  # noqa: D301 - click's mark for lines that are not wrapped is the character itself
    with naming("--out", out):
        check_new(out)
    by_key = (names or ("file" if kind == "kaggle" else "key")) == "key"
    with OpenStore(existing_store(store, endpoint_url)) as opened:
        picked = Picked(opened, Selection(**selection), by_key=by_key)
        images = _Counted(picked)
        with naming("--out", out):
            num_masks = _write(kind, images, picked.classes, out, kaggle_layout)
    if output == "json":
        print_json({"images": images.num, "masks": num_masks, "out": str(out)})
    else:
        say(f"{counted(images.num, 'image')} with {counted(num_masks, 'mask')} in {out}")


class _Counted:
    """Iterates over images and counts them."""

    def __init__(self, images: Picked) -> None:
        self._images = images
        self.num = 0

    def __iter__(self) -> Iterator[Image]:
        for image in self._images:
            self.num += 1
            yield image


def _write(
    kind: str, images: _Counted, classes: dict[int, str], out: Path, kaggle_layout: str
) -> int:
    if kind == "png":
        with new_folder(out) as folder:
            return write_png(images, classes, folder)
    if kind in ("cvat", "fiftyone"):
        with new_folder(out) as folder:
            path = folder / (CVAT_FILE if kind == "cvat" else FIFTYONE_FILE)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                return write_coco(images, classes, file, for_cvat=kind == "cvat")
    with new_file(out) as file:
        if kind == "coco":
            return write_coco(images, classes, file)
        return write_kaggle(images, classes, file, kaggle_layout)
