"""The pixels of images that were scored, read as their runs read them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.errors import ConfigError, ImageError, LakeError, SteelBatchError
from steel_batch.exports.selection import Image
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import read_run
from steel_batch.sources.fetch import read_images

AT_ONCE: Final = 32
"""Images that are read together."""
Pixels = npt.NDArray[np.uint8]


class ScoredImages:
    """Reads images as their runs read them.

    Args:
        store: The store.
        images: Where they lie now; None where their run found them.
    """

    def __init__(self, store: Lake, images: str | None) -> None:
        self._store = store
        self._images = images
        self._configs: dict[str, dict[str, Any]] = {}

    def read(self, picked: Iterable[Image]) -> Iterator[tuple[Image, Pixels]]:
        """The images with their pixels, in order; few are held at a time.

        Raises:
            ConfigError: One cannot be read, or is not what was scored.
            LakeError: The images or the run cannot be read.
        """
        for image, pixels_HW in self.read_each(picked):
            if isinstance(pixels_HW, SteelBatchError):
                raise pixels_HW
            yield image, pixels_HW

    def read_each(
        self, picked: Iterable[Image]
    ) -> Iterator[tuple[Image, Pixels | SteelBatchError]]:
        """The images with their pixels, or why there are none; in order."""
        images = iter(picked)
        while several := list(itertools.islice(images, AT_ONCE)):
            read: dict[tuple[str, str], Pixels | SteelBatchError] = {}
            for run_id in sorted({image.run_id for image in several}):
                of_run = [image for image in several if image.run_id == run_id]
                for image, pixels_HW in zip(of_run, self._read_run(run_id, of_run), strict=True):
                    read[run_id, image.key] = pixels_HW
            for image in several:
                yield image, read[image.run_id, image.key]

    def _read_run(self, run_id: str, images: Sequence[Image]) -> list[Pixels | SteelBatchError]:
        try:
            config = self._config(run_id)
            lake = self._lake(run_id, config)
            refs = self._refs(run_id, [image.key for image in images])
            found = read_images(lake, refs)
        except SteelBatchError as error:
            return [error] * len(images)
        places = {key: place for place, key in enumerate(refs["image_key"].to_pylist())}
        return [
            _decode(lake, image, found[places[image.key]], config.get("bits"))
            if image.key in places
            else ConfigError(f"the plan of run {run_id} does not say where {image.key} lies.")
            for image in images
        ]

    def _lake(self, run_id: str, config: dict[str, Any]) -> Lake:
        endpoint_url = config.get("endpoint_url")
        if self._images is None:
            if not config.get("images"):
                raise ConfigError(
                    f"the record of run {run_id} does not say where its images were read: give "
                    "--images."
                )
            return Lake(config["images"], endpoint_url=endpoint_url)
        # They may have moved to where the store is.
        return Lake(self._images, endpoint_url=self._store.endpoint_url or endpoint_url)

    def _config(self, run_id: str) -> dict[str, Any]:
        if run_id not in self._configs:
            record = read_run(self._store, run_id).record
            if record is None:
                raise ConfigError(
                    f"the record of run {run_id} is not in {self._store.url}: it says where the "
                    "images were read. Restore it from a backup."
                )
            self._configs[run_id] = record.config
        return self._configs[run_id]

    def _refs(self, run_id: str, keys: Sequence[str]) -> pa.Table:
        """Where images lie, from their run's plan: also within containers."""
        wanted = pa.array(keys, pa.string())
        groups = [
            group.filter(pc.is_in(group["image_key"], wanted))
            for group in Plan(self._store, run_id)
        ]
        refs = pa.concat_tables([schema.PLAN.empty_table(), *groups])
        if self._images is not None:  # a copy has other etags
            none = pa.repeat(pa.scalar(""), refs.num_rows)
            refs = refs.set_column(refs.schema.get_field_index("etag"), "etag", none)
        return refs


def _decode(
    lake: Lake, image: Image, data: bytes | LakeError | ImageError, bits: int | None
) -> Pixels | SteelBatchError:
    if not isinstance(data, bytes):
        reason = str(data).rstrip(".")
    elif len(data) != image.bytes:
        reason = f"it has {len(data):,} bytes, and had {image.bytes:,} when it was scored"
    else:
        try:
            pixels_HW = decode_gray(data, bits=bits)
        except ImageError as error:
            reason = str(error).rstrip(".")
        else:
            height, width = pixels_HW.shape
            if (height, width) == (image.height, image.width):
                return pixels_HW
            reason = f"it has {width}×{height} pixels, and had {image.width}×{image.height}"
    return ConfigError(
        f"image {image.key} cannot be shown from {lake.url}: {reason}. Give --images where it lies "
        "as it was, or select others."
    )
