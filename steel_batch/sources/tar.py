"""The images of a tar, from its index file or from its headers; nothing is ever extracted.

Member names become keys of rows, never paths. A member's key is its name without a leading ``./``,
and rows are identified by it, so the way a name becomes a key must never change.
"""

from __future__ import annotations

import logging
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Final

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import InputError, LakeError, LargeObjectError, MissingObjectError
from steel_batch.lake import Lake, LakeObject
from steel_batch.sources.image_ref import NOT_A_FILE, SPARSE, UNSAFE_NAME, ImageRef, ref_of
from steel_batch.sources.key_pattern import IMAGE_SUFFIXES, KeyPattern
from steel_batch.sources.stray import by_product_reason
from steel_batch.sources.tar_headers import Member, read_member
from steel_batch.sources.tar_index import INDEX_SUFFIX, Index, tail_sha256
from steel_batch.sources.tar_walk import tar_members

Place = tuple[int, int]
"""Offset and size of a member."""
_NO_FILE: Final[Place] = (NOT_A_FILE, 0)

log = logging.getLogger(__name__)


def tar_images(
    lake: Lake, container: ImageRef, pattern: KeyPattern, limits: Limits = LIMITS
) -> Iterator[ImageRef | str]:
    """List the images of one tar.

    A member that is named like an image but cannot be read as one (a folder, a device, a link to
    something that is not a member, an absolute name or one with '..') is yielded with `NOT_A_FILE`
    or `UNSAFE_NAME`, to be quarantined. Links to members are read as their targets. If members
    share a name up to the first dot, as ``x.jpg`` and ``x.seg.jpg`` of a WebDataset, the shortest
    name is the image, unless the pattern asks for the other.

    Args:
        lake: Root of the tar.
        container: The tar.
        pattern: Pattern of the members' names, without a leading ``./``.
        limits: What may be read of its headers and of its index.

    Yields:
        Images; the image key of each member that does not match or is not an image of its own.

    Raises:
        ConfigError: The tar or its index is damaged, or two members have the same name and
            different content.
        ChangedObjectError: The tar was replaced after it was listed.
    """
    index = _index(lake, container, limits)
    if index is None:
        members, is_packed = _members(lake, container, limits), False
    else:
        placed = (_placed(entry.name, (entry.offset, entry.bytes)) for entry in index.entries())
        members, is_packed = placed, True
    names = _Names(lake, container)
    waiting: list[tuple[str, ImageRef]] = []
    samples: set[str] = set()
    is_whole_name = is_packed or _names_whole_files(pattern)
    for name, place in members:
        key = f"{container.object_key}#{name}"
        sample, is_part = _sample(name)
        if sample is not None and not is_part and place != _NO_FILE:
            samples.add(sample)
        fields = None if by_product_reason(name) else pattern.match(name)
        if fields is None:
            yield key
        elif names.add(name, place):
            item = LakeObject(key=key, size_bytes=place[1], etag=container.etag)
            image = _inside(ref_of(fields, item), container, place[0])
            if is_part and sample is not None and not is_whole_name:
                waiting.append((sample, image))
            else:
                yield image
    for sample, image in waiting:
        yield image.image_key if sample in samples else image


def _inside(ref: ImageRef, container: ImageRef, offset: int) -> ImageRef:
    return ImageRef(
        image_key=ref.image_key, image_id=ref.image_id, date=ref.date, line=ref.line,
        tags=ref.tags, object_key=container.object_key, offset=offset, bytes=ref.bytes,
        etag=container.etag,
    )  # fmt: skip


def _names_whole_files(pattern: KeyPattern) -> bool:
    """Whether a pattern contains what follows a name's first dot, as ``{image_id}.seg.jpg``."""
    return pattern.text is not None and pattern.segments[-1].count(".") > 1


def _sample(name: str) -> tuple[str | None, bool]:
    """The sample of an image file, by its name up to the first dot; and whether it is only a part.

    ``x.jpg`` is the sample, ``x.seg.jpg`` a part of it. ``x.0001.jpg`` is a sample of its own:
    numbers count images.
    """
    folder, _, file = name.rpartition("/")
    stem, *middle, suffix = file.split(".") if "." in file else (file, "")
    if not stem or f".{suffix}".lower() not in IMAGE_SUFFIXES:
        return None, False
    is_part = any(not part.isdecimal() for part in middle)
    return (f"{folder}/{stem}", is_part) if is_part or not middle else (None, False)


def _index(lake: Lake, container: ImageRef, limits: Limits) -> Index | None:
    """The tar's index file, if it belongs to this tar."""
    key = container.object_key + INDEX_SUFFIX
    try:
        index = Index(lake.read(key, max_bytes=limits.index_bytes), key)
    except MissingObjectError:
        return None
    except LargeObjectError as error:
        raise InputError(
            f"{error.message} It is no index of a tar (limit index-bytes): delete it to have the "
            "tar's own headers read."
        ) from error
    head = index.head
    if head.bytes == container.bytes and head.tail_sha256 == tail_sha256(
        lake, container.object_key, container.bytes, container.etag
    ):
        return index
    log.warning("%s does not belong to its tar; reading the tar's headers instead", key)
    return None


def _members(lake: Lake, container: ImageRef, limits: Limits) -> Iterator[tuple[str, Place]]:
    """Yield name and place of each member; links to later members come last."""
    places: dict[str, Place] = {}
    unknown: list[Member] = []
    key, size_bytes = container.object_key, container.bytes
    for member in tar_members(lake, key, size_bytes, container.etag, limits):
        place: Place | None = _NO_FILE
        if member.kind == "file":
            place = (member.offset, member.size)
        elif member.kind != "other":
            place = places.get(_target(member))
        if place is None:
            unknown.append(member)
            continue
        if place != _NO_FILE:
            places[_plain(member.name)] = place
        yield _placed(member.name, place)
    num_known = -1
    while num_known < len(places):  # a link's target may be a link
        num_known = len(places)
        for member in unknown:
            place = places.get(_target(member))
            if place is not None:
                places.setdefault(_plain(member.name), place)
    for member in unknown:
        yield _placed(member.name, places.get(_target(member), _NO_FILE))


def _target(member: Member) -> str:
    """The name of a link's target."""
    if member.kind == "hard link":
        return _plain(member.target)
    return posixpath.normpath(posixpath.join(posixpath.dirname(_plain(member.name)), member.target))


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    return name


def _placed(name: str, place: Place) -> tuple[str, Place]:
    """A member as it is used in keys: without a leading './', and valid UTF-8."""
    name = _plain(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        return name, (UNSAFE_NAME, 0)
    return name, place


class _Names:
    """The names of a tar's images, which must be unique."""

    def __init__(self, lake: Lake, container: ImageRef) -> None:
        self._lake, self._container = lake, container
        self._places: dict[str, Place] = {}

    def add(self, name: str, place: Place) -> bool:
        """Whether a name is new; False for an identical copy of an image of that name.

        Raises:
            ConfigError: There is a different image of that name.
        """
        first = self._places.get(name)
        if first is None:
            self._places[name] = place
            return True
        if first != place and not self._are_equal(first, place):
            raise InputError(
                f"{self._lake.uri(self._container.object_key)} has two members named {name!r} with "
                "different content: appended with `tar -r` or `-u`, or from two archives that were "
                "joined. Each image needs a unique key: rename or remove one of them, or pack the "
                "images again."
            )
        return False

    def _are_equal(self, first: Place, second: Place) -> bool:
        if first[1] != second[1] or any(SPARSE < offset < 0 for offset, _ in (first, second)):
            return False
        key, etag = self._container.object_key, self._container.etag
        try:
            contents = [read_member(self._lake, key, etag, *place) for place in (first, second)]
        except tarfile.TarError as error:
            raise LakeError(
                f"{self._lake.uri(key)} cannot be read: {error}. Upload it again, or move it out "
                "of the prefix."
            ) from error
        return contents[0] == contents[1]
