"""Images inside tars and Parquet files: each container of a source, read in place.

The line, date and tags in a container's key apply to its images. What the key leaves open may come
from a member's name or a row's columns. If both state a value, they must agree.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.errors import ConfigError, InputError, NoImagesError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.sources.contract import NotThere, Source, span_of
from steel_batch.sources.image_ref import (
    IMAGES,
    ImageRef,
    in_batches,
    ref_batches,
    refs_of,
    repeated,
)
from steel_batch.sources.kept import Kept
from steel_batch.sources.key_columns import tag_maps
from steel_batch.sources.parallel import expand_parallel

OPEN_THREADS: Final = 32
"""How many containers are open at once on S3, where most of the time is latency."""
LOCAL_OPEN_THREADS: Final = 8
"""The same in a folder: more take turns at the interpreter's lock, and each holds memory."""

ROWS_AT_ONCE: Final = 4_096
"""Images that are passed on together: many containers are open at once, each with so many."""


@dataclass(frozen=True, slots=True)
class Found:
    """Some images of a container, as its own names and columns describe them."""

    images: pa.RecordBatch
    """`IMAGES`."""
    num_left_out: int = 0
    """Members found with them that are not images by the key pattern."""
    example_left_out: str | None = None


Opener = Callable[[Lake, ImageRef], Iterator[Found]]
"""Yields the images of a container."""


def in_columns(members: Iterator[ImageRef | str]) -> Iterator[Found]:
    """What an `Opener` yields, from images and the keys of members that are not images."""
    while some := list(itertools.islice(members, ROWS_AT_ONCE)):
        others = [key for key in some if isinstance(key, str)]
        images = [image for image in some if isinstance(image, ImageRef)]
        batch = next(ref_batches(images, IMAGES), pa.RecordBatch.from_pylist([], IMAGES))
        yield Found(batch, len(others), next(iter(others), None))


@dataclass(frozen=True, slots=True)
class KeptMembers:
    """The images of all containers, and counts of what else was found."""

    images: Kept
    num_left_out: int
    example_left_out: str | None
    num_containers: int


@dataclass(slots=True)
class Containers:
    """A source of images inside the objects of another source; see `Source`."""

    objects: Source
    open_container: Opener
    kept: KeptMembers | None = field(default=None, init=False)
    """What `dates` read; later selections use it."""

    @property
    def lake(self) -> Lake:
        """See `Source`."""
        return self.objects.lake

    @property
    def is_seen(self) -> bool:
        """See `Source`."""
        return self.objects.is_seen

    def dates(self) -> list[str]:
        """See `Source`; opens each container once, and only if the keys do not state the date."""
        first = next(iter(self.objects.select(None)), None)
        if first is None or first.date is not None:
            return self.objects.dates()
        if self.kept is None:
            self.kept = self._read()
        dates = self.kept.images.dates
        if dates <= {None}:
            raise ConfigError(
                "--date all takes the dates from the images, but neither the containers' keys nor "
                f"their contents state one, for example {first.object_key!r}: put {{date}} into "
                "--key-pattern, or give --date YYYY-MM-DD."
            )
        return sorted(check_date(date) for date in dates if date is not None)

    def select(self, date: str | None) -> Members:
        """See `Source`."""
        return Members(self, date)

    def _read(self) -> KeptMembers:
        members = Members(self, None)
        images = Kept(members)
        return KeptMembers(
            images, members.num_left_out, members.example_left_out, members.num_containers
        )


@dataclass(slots=True)
class Members:
    """The images of one date inside containers; see `Selection`."""

    source: Containers
    date: str | None
    num_left_out: int = 0
    example_left_out: str | None = None
    num_containers: int = 0
    other_dates: set[str] = field(default_factory=set)
    """Dates other than `date` of images that were found."""
    not_there: NotThere = field(default_factory=NotThere)
    """None: a container that does not exist stops planning."""

    def __iter__(self) -> Iterator[ImageRef]:
        """See `Selection`."""
        return refs_of(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """See `ImageColumns`; several containers are open at once."""
        return in_batches(self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        kept = self.source.kept
        if kept is not None:
            self.num_left_out = kept.num_left_out
            self.example_left_out = kept.example_left_out
            self.num_containers = kept.num_containers
            self.other_dates = {date for date in kept.images.dates if date not in (None, self.date)}
            yield from kept.images.select(self.date)
            return
        lake, objects = self.source.lake, self.source.objects.select(self.date)
        opened = expand_parallel(
            self._counted(iter(objects)),
            partial(_open, lake, self.source.open_container),
            num_threads=OPEN_THREADS if lake.is_s3 else LOCAL_OPEN_THREADS,
            chunk=1,
        )
        for found in opened:
            self.num_left_out += found.num_left_out
            self.example_left_out = self.example_left_out or found.example_left_out
            yield found.images if self.date is None else self._of_date(found.images, self.date)
        self.num_left_out += objects.num_left_out
        self.example_left_out = self.example_left_out or objects.example_left_out

    def _of_date(self, images: pa.RecordBatch, date: str) -> pa.RecordBatch:
        is_other = pc.fill_null(pc.not_equal(images.column("date"), date), False)
        if not pc.any(is_other).as_py():
            return images
        self.other_dates.update(images.column("date").filter(is_other).unique().to_pylist())
        return images.filter(pc.invert(is_other))

    def _counted(self, containers: Iterator[ImageRef]) -> Iterator[ImageRef]:
        for container in containers:
            self.num_containers += 1
            yield container

    def explain_empty(self) -> ConfigError:
        """See `Selection`."""
        if not self.num_containers:
            objects = self.source.objects.select(self.date)
            for _ in objects:
                pass  # iterated for its counts
            return objects.explain_empty()
        if self.other_dates:
            return NoImagesError(
                f"{self.num_containers:,} containers in {self.source.lake.url} hold no image of "
                f"{self.date}, only images of {span_of(self.other_dates)}. Give another "
                "--date."
            )
        if not self.num_left_out:
            return ConfigError(
                f"{self.num_containers:,} containers in {self.source.lake.url} are empty: they have"
                " no members and no rows. Pack the images again, or give another --key-pattern or "
                "--date."
            )
        example = f", for example {self.example_left_out!r}" if self.example_left_out else ""
        return ConfigError(
            f"{self.num_containers:,} containers in {self.source.lake.url} hold no image"
            f"{f' of {self.date}' if self.date else ''} that matches the key pattern; "
            f"{self.num_left_out:,} members do not match it{example}. Change --key-pattern (the "
            "part after '#' is for the members of a tar) or --date."
        )


def _open(lake: Lake, opener: Opener, container: ImageRef) -> Iterator[Found]:
    if container.bytes == 0:
        lake.stat(container.object_key)  # says where it is no file of the lake's
    for found in opener(lake, container):
        yield dataclasses.replace(found, images=_merged(container, found.images))


def _merged(container: ImageRef, images: pa.RecordBatch) -> pa.RecordBatch:
    """Combine what a container's key states and what its members state of themselves."""
    keys, num_rows = images.column("image_key"), images.num_rows
    columns = dict(zip(images.schema.names, images.columns, strict=True))
    for name in ("line", "date"):
        outer = getattr(container, name)
        if outer is not None:
            differs = pc.fill_null(pc.not_equal(columns[name], outer), False)
            if (place := pc.index(differs, True).as_py()) >= 0:
                raise _disagree(keys[place], name, outer, columns[name][place])
            columns[name] = repeated(outer, num_rows)
    if container.tags:
        columns["tags"] = _merged_tags(container.tags, keys, columns["tags"])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=images.schema)


def _merged_tags(outer: dict[str, str], keys: pa.StringArray, tags: pa.MapArray) -> pa.MapArray:
    same = [(name, repeated(value, len(keys))) for name, value in outer.items()]
    if not len(tags.keys):
        return tag_maps(same, len(keys))
    rows = []
    for i, inner in enumerate(map(dict, tags.to_pylist())):
        for name in outer.keys() & inner.keys():
            if outer[name] != inner[name]:
                raise _disagree(keys[i], name, outer[name], inner[name])
        rows.append(list({**outer, **inner}.items()))
    return pa.array(rows, tags.type)


def _disagree(key: Any, name: str, outer: str, inner: Any) -> InputError:
    return InputError(
        f"{key} has the {name} {str(inner)!r}, but its container's key states {outer!r}."
        " Remove one of the two from --key-pattern ('*' matches without a meaning), or pack "
        "the images again."
    )
