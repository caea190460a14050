"""The kinds of `--images`: finds out what there is to score.

Two questions decide the kind:

- Which objects are there? Those that a manifest lists, if `--images` names an object that ends in
  ``.csv``, ``.parquet`` or ``manifest.json``; else those under the prefix.
- What is an object? A container of images, if the key pattern names objects that end in ``.tar``
  or ``.parquet``; else one image.

The pattern of a tar may continue after a ``#`` with a pattern for its members' names, as in
``line={line}/date={date}/*.tar#{image_id}.jpg``. Without that, every image file is used, named by
the last part of its name. Image keys have the same form: ``<tar>#<member>``, ``<file>#<row>``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake, why_unusable
from steel_batch.sources.containers import Containers, Found, Opener, in_columns
from steel_batch.sources.contract import Selection, Source
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.manifest import is_manifest, open_manifest, place_of_manifest
from steel_batch.sources.parquet import parquet_images
from steel_batch.sources.prefix import Prefix
from steel_batch.sources.tar import tar_images
from steel_batch.sources.tar_index import INDEX_SUFFIX

__all__ = ["Selection", "Source", "open_source"]

_CONTAINER: Final = re.compile(r"(?P<objects>[^#]*\.(?P<kind>tar|parquet))(?:#(?P<members>.*))?")
_COMPRESSED: Final = re.compile(r"[^#]*\.(tar\.\w+|tgz|tbz2?|txz|zip|7z)(#.*)?")


def open_source(
    images: str,
    key_pattern: str | None,
    *,
    endpoint_url: str | None = None,
    limits: Limits = LIMITS,
    follow_links: bool = False,
    inventory_buckets: Collection[str] = (),
    needs_etags: bool = False,
) -> Source:
    """Open the source that `--images` and `--key-pattern` describe, with at most one request.

    Args:
        images: See above.
        key_pattern: The same.
        endpoint_url: An S3 endpoint other than AWS's.
        limits: What may be read of manifests and containers.
        follow_links: Whether links out of a folder are followed; see `Lake`.
        inventory_buckets: Buckets that an Inventory may name; see `Inventory.open`.
        needs_etags: Whether etags that a manifest lacks are looked up before images are read.

    Raises:
        ConfigError: The pattern is not valid.
        LakeError: The store cannot be reached.
    """
    pattern, opener = _parse(key_pattern, limits)
    companion = INDEX_SUFFIX if opener is not None else ""
    place, name = place_of_manifest(images, endpoint_url, follow_links=follow_links)
    if is_manifest(place, name):
        objects: Source = open_manifest(
            place,
            name,
            pattern,
            companion=companion,
            limits=limits,
            inventory_buckets=inventory_buckets,
            needs_etags=needs_etags,
        )
    else:
        lake = Lake(images, endpoint_url=endpoint_url, follow_links=follow_links)
        objects = Prefix(lake, pattern, companion)
    return objects if opener is None else Containers(objects, opener)


def _parse(text: str | None, limits: Limits) -> tuple[KeyPattern, Opener | None]:
    """The pattern of the objects' keys, and how to open the objects if they are containers."""
    if text is not None and _COMPRESSED.fullmatch(text):
        raise ConfigError(
            f"key pattern {text!r} names compressed archives, which cannot be read in parts: "
            "unpack them, then use `steel-batch pack` to make .tar or .parquet files of the images."
        )
    match = None if text is None else _CONTAINER.fullmatch(text)
    objects = text if match is None else match["objects"]
    if objects is not None and why_unusable(objects.strip("/")) is not None:
        raise ConfigError(
            f"key pattern {text!r} matches no key: keys are relative to --images, with one '/' "
            "between their parts and without '.', '..' and backslashes. Write it as "
            "'line={line}/date={date}/{image_id}.jpg'."
        )
    if match is None:
        return KeyPattern(text), None
    pattern = KeyPattern(match["objects"], names_images=False)
    if match["kind"] == "tar":
        members = KeyPattern(match["members"])
        return pattern, lambda lake, tar: in_columns(tar_images(lake, tar, members, limits))
    if match["members"] is not None:
        raise ConfigError(
            f"key pattern {text!r} has text after '#', but rows of a Parquet file have no names; "
            "their columns image_id, line, date and tags describe them. Remove '#' and the rest."
        )
    return pattern, lambda lake, file: map(Found, parquet_images(lake, file, limits))
