"""`steel-batch show`: pictures of scored images with their defects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.whole import check_new, new_file, new_folder
from steel_batch.cli.output import counted, existing_store, naming, output_option, print_json, say
from steel_batch.cli.selecting import selection_options
from steel_batch.cli.values import PLACE
from steel_batch.errors import ConfigError, ImageError, LakeError
from steel_batch.exports.png import safe_path
from steel_batch.exports.selection import Image, Picked, Selection
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake
from steel_batch.report.contact_sheet import contact_sheet, outline
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import read_run
from steel_batch.sources.fetch import read_images

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

    For example, the ten largest scabs: --limit 10 --query "SELECT image_key FROM defects WHERE
    class_name = 'scabs' ORDER BY area_px DESC". If an image is missing or changed since it was
    scored, the command fails and writes nothing.
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
        found = _Pictures(lake, images).read(picked)
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


class _Pictures:
    """Reads images the way their runs read them.

    Args:
        store: The store.
        images: Where the images are now; None for where their run read them.
    """

    def __init__(self, store: Lake, images: str | None) -> None:
        self._store = store
        self._images = images
        self._configs: dict[str, dict[str, Any]] = {}

    def read(self, picked: Iterable[Image]) -> Iterator[tuple[Image, npt.NDArray[np.uint8]]]:
        """Yield the images with their pixels, in order; only a few are in memory at a time.

        Raises:
            ConfigError: An image cannot be read, or changed since it was scored.
        """
        images = iter(picked)
        while several := list(itertools.islice(images, AT_ONCE)):
            read: dict[tuple[str, str], npt.NDArray[np.uint8]] = {}
            for run_id in sorted({image.run_id for image in several}):
                of_run = [image for image in several if image.run_id == run_id]
                for image, pixels_HW in zip(of_run, self._read_run(run_id, of_run), strict=True):
                    read[run_id, image.key] = pixels_HW
            for image in several:
                yield image, read[image.run_id, image.key]

    def _read_run(self, run_id: str, images: Sequence[Image]) -> list[npt.NDArray[np.uint8]]:
        config = self._config(run_id)
        endpoint_url = config.get("endpoint_url")
        if self._images is None:
            lake = Lake(config["images"], endpoint_url=endpoint_url)
        else:  # they may have moved to where the store is
            lake = Lake(self._images, endpoint_url=self._store.endpoint_url or endpoint_url)
        refs = self._refs(run_id, [image.key for image in images])
        if self._images is not None:  # a copy has other ETags
            none = pa.repeat(pa.scalar(""), refs.num_rows)
            refs = refs.set_column(refs.schema.get_field_index("etag"), "etag", none)
        places = {key: place for place, key in enumerate(refs["image_key"].to_pylist())}
        missing = [image.key for image in images if image.key not in places]
        if missing:
            raise ConfigError(f"the plan of run {run_id} does not contain image {missing[0]}.")
        found = read_images(lake, refs)
        return [
            _decode(lake, image, found[places[image.key]], config.get("bits")) for image in images
        ]

    def _config(self, run_id: str) -> dict[str, Any]:
        if run_id not in self._configs:
            record = read_run(self._store, run_id).record
            if record is None:
                raise ConfigError(
                    f"the record of run {run_id} is not in {self._store.url}. It states where the "
                    "images were read. Restore it from a backup."
                )
            self._configs[run_id] = record.config
        return self._configs[run_id]

    def _refs(self, run_id: str, keys: Sequence[str]) -> pa.Table:
        """Look up where images are in their run's plan, including those in containers."""
        wanted = pa.array(keys, pa.string())
        groups = [
            group.filter(pc.is_in(group["image_key"], wanted))
            for group in Plan(self._store, run_id)
        ]
        return pa.concat_tables([schema.PLAN.empty_table(), *groups])


def _decode(
    lake: Lake, image: Image, data: bytes | LakeError | ImageError, bits: int | None
) -> npt.NDArray[np.uint8]:
    reason = ""
    if isinstance(data, bytes):
        if len(data) != image.bytes:
            reason = f"it has {len(data):,} bytes, but had {image.bytes:,} when it was scored"
        else:
            try:
                pixels_HW = decode_gray(data, bits=bits)
            except ImageError as error:
                reason = str(error).rstrip(".")
            else:
                if pixels_HW.shape == (image.height, image.width):
                    return pixels_HW
                height, width = pixels_HW.shape
                reason = f"it has {width}×{height} pixels, but had {image.width}×{image.height}"
    else:
        reason = str(data).rstrip(".")
    raise ConfigError(
        f"image {image.key} cannot be shown from {lake.url}: {reason}. Give --images with a place "
        "that has the scored image, or select other images."
    )
