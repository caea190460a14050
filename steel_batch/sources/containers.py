"""Images inside tars and Parquet files: each container of a source, read in place.

The line, date and tags in a container's key apply to its images. What the key leaves open may come
from a member's name or a row's columns. If both state a value, they must agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from steel_batch.errors import ConfigError, InputError, NoImagesError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.sources.contract import Source, span_of
from steel_batch.sources.image_ref import ImageRef, refs_of
from steel_batch.sources.kept import Kept
from steel_batch.sources.parallel import expand_parallel

OPEN_THREADS: Final = 32
"""How many containers are open at once."""

Opener = Callable[[Lake, ImageRef], "Iterator[ImageRef | str]"]
"""Yields a container's images as its own names and columns describe them, and the key of each
member that is not an image by the key pattern."""


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

    def __iter__(self) -> Iterator[ImageRef]:
        """See `Selection`; several containers are open at once."""
        kept = self.source.kept
        if kept is not None:
            self.num_left_out = kept.num_left_out
            self.example_left_out = kept.example_left_out
            self.num_containers = kept.num_containers
            self.other_dates = {date for date in kept.images.dates if date not in (None, self.date)}
            yield from refs_of(kept.images.select(self.date))
            return
        objects = self.source.objects.select(self.date)
        opened = expand_parallel(
            self._counted(iter(objects)),
            partial(_open, self.source.lake, self.source.open_container),
            num_threads=OPEN_THREADS,
        )
        for image in opened:
            if isinstance(image, str):
                self.num_left_out += 1
                self.example_left_out = self.example_left_out or image
            elif self.date is None or image.date is None or image.date == self.date:
                yield image
            else:
                self.other_dates.add(image.date)
        self.num_left_out += objects.num_left_out
        self.example_left_out = self.example_left_out or objects.example_left_out

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
        example = f", for example {self.example_left_out!r}" if self.example_left_out else ""
        return ConfigError(
            f"{self.num_containers:,} containers in {self.source.lake.url} hold no image"
            f"{f' of {self.date}' if self.date else ''} that matches the key pattern; "
            f"{self.num_left_out:,} members do not match it{example}. Change --key-pattern (the "
            "part after '#' is for the members of a tar) or --date."
        )


def _open(lake: Lake, opener: Opener, container: ImageRef) -> Iterator[ImageRef | str]:
    if container.bytes == 0:
        lake.stat(container.object_key)  # says where it is no file of the lake's
    for image in opener(lake, container):
        yield image if isinstance(image, str) else _merge(container, image)


def _merge(container: ImageRef, image: ImageRef) -> ImageRef:
    """Combine what a container's key and its member state about one image."""
    for name in ("line", "date"):
        _agree(image, name, getattr(container, name), getattr(image, name))
    for name in container.tags.keys() & image.tags.keys():
        _agree(image, name, container.tags[name], image.tags[name])
    return dataclasses.replace(
        image,
        line=container.line if image.line is None else image.line,
        date=container.date if image.date is None else image.date,
        tags={**container.tags, **image.tags},
    )


def _agree(image: ImageRef, name: str, outer: str | None, inner: str | None) -> None:
    if outer is not None and inner is not None and outer != inner:
        raise InputError(
            f"{image.image_key} has the {name} {inner!r}, but its container's key states {outer!r}."
            " Remove one of the two from --key-pattern ('*' matches without a meaning), or pack "
            "the images again."
        )
