"""Finds objects under a folder or prefix by listing it."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.errors import ConfigError, NoImagesError
from steel_batch.lake import Lake, LakeObject, ListedPage
from steel_batch.sources.arrays import flags_in, of_flags, of_numbers, of_texts, scalar_of
from steel_batch.sources.contract import NotThere
from steel_batch.sources.dates import SPELLED
from steel_batch.sources.image_ref import (
    IMAGES,
    ImageRef,
    in_batches,
    ref_batches,
    ref_of,
    refs_of,
)
from steel_batch.sources.key_columns import image_batch, read_keys
from steel_batch.sources.key_pattern import (
    IMAGE_SUFFIXES,
    KeyPattern,
    date_of_folders,
    folder_fits,
    has_placeholder,
    literal_prefixes,
)
from steel_batch.sources.parallel import expand_parallel
from steel_batch.sources.stray import stray_reason

LIST_THREADS: Final = 16
EXAMPLES_SOUGHT: Final = 10_000
"""How many objects are searched for an example of another date, if there is none of this date."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prefix:
    """Every object under the lake's root with a matching key; see `Source`."""

    lake: Lake
    pattern: KeyPattern
    companion: str = ""
    """Suffix of accompanying objects, which are not counted as left out."""

    @property
    def is_seen(self) -> bool:
        """See `Source`."""
        return True

    def dates(self) -> list[str]:
        """See `Source`; lists only folders if the date is part of a folder's name."""
        return find_dates(self.lake, self.pattern)

    def select(self, date: str | None) -> Listing:
        """See `Source`; with a date in the pattern, only that date's folders are listed."""
        return Listing(self.lake, self.pattern, date, companion=self.companion)


@dataclass(slots=True)
class Listing:
    """The images of one date, and counts of what else was found.

    Iterate only once; the counts are complete after the iteration.
    """

    lake: Lake
    pattern: KeyPattern
    date: str | None
    companion: str = ""
    """Suffix of accompanying objects, which are not counted as left out."""
    num_left_out: int = 0
    """Objects that are not images by the pattern, and folders that were skipped for that reason."""
    example_left_out: str | None = None
    not_there: NotThere = field(default_factory=NotThere)

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield every image of the date, in no particular order, holding few at a time."""
        return refs_of(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """See `ImageColumns`."""
        wanted = self.date if self.pattern.has_date else None
        folders = _Folders(self.lake, wanted)
        pages = expand_parallel(
            self._prefixes(folders), self.lake.list_pages, num_threads=LIST_THREADS, chunk=1
        )
        for objects in in_batches(map(_columns_of, pages)):
            columns = read_keys(self.pattern, objects["key"])
            images = image_batch(columns, objects["key"], objects["bytes"], objects["etag"])
            is_read = columns.is_read
            if wanted is not None:
                of_date = pc.fill_null(pc.equal(columns.date, scalar_of(wanted)), scalar_of(False))
                is_read = is_read & flags_in(of_date)
            yield images if is_read.all() else images.filter(of_flags(is_read))
            if not columns.is_read.all():
                others = objects.filter(of_flags(~columns.is_read)).to_pylist()
                refs = filter(None, (self._ref(item, wanted) for item in others))
                yield from ref_batches(refs, IMAGES)
        self.num_left_out += folders.num_left_out
        self.example_left_out = self.example_left_out or folders.example_left_out

    def _ref(self, item: dict[str, Any], wanted: str | None) -> ImageRef | None:
        """An image that `read_keys` did not read; None, counted, if it is none."""
        key = item["key"]
        fields = self.pattern.match(key) if stray_reason(key) is None else None
        if fields is not None:
            found = LakeObject(key=key, size_bytes=item["bytes"], etag=item["etag"])
            ref = ref_of(fields, found)
            return ref if wanted is None or ref.date == wanted else None
        if self.companion and key.endswith(self.companion):
            return None
        if item["bytes"] == 0:
            _is_link_out(self.lake, key)
        self.num_left_out += 1
        self.example_left_out = self.example_left_out or key
        return None

    def _prefixes(self, folders: _Folders) -> Iterator[str]:
        if self.pattern.text is None:
            yield ""
            return
        *above, last = self.pattern.segments
        heads = literal_prefixes(last, folders.date)
        yield from (folder + head for folder in folders.matching(above) for head in heads)

    def explain_empty(self) -> ConfigError:
        """Explain, as an error to show, why no image was found."""
        example = next(iter(self.lake.list_objects()), None)
        if example is None:
            return _explain_nothing(self.lake)
        if self.pattern.text is None:
            return ConfigError(
                f"no image files under {self.lake.url}: found for example "
                f"{_shown(self.lake, self.example_left_out or example.key)}; "
                f"expected names ending in {', '.join(IMAGE_SUFFIXES)}. Give --key-pattern for "
                "images with other names, or for images in '*.tar' or '*.parquet'."
            )
        unread = self._unread_image() if self.pattern.has_date else self.example_left_out
        if unread is None:
            objects = itertools.islice(self.lake.list_objects(), EXAMPLES_SOUGHT)
            fitting = (item.key for item in objects if self.pattern.match(item.key) is not None)
            other = next(fitting, None)
            if other is not None:
                return NoImagesError(
                    f"there are no images of {self.date} under {self.lake.url}; the key pattern "
                    f"{self.pattern.text!r} matches other dates, for example {other!r}. Give "
                    "another --date."
                )
        example_key = unread or self.example_left_out or example.key
        date = f" and the date {self.date}" if self.pattern.has_date and self.date else ""
        spelled = "" if not self.pattern.has_date else f" {SPELLED}"
        return ConfigError(
            f"no key under {self.lake.url} matches the key pattern {self.pattern.text!r}{date}: "
            f"found for example {_shown(self.lake, example_key)}. Change --key-pattern to match it"
            f"{', or give another --date' if date else ''}.{spelled}"
        )

    def _unread_image(self) -> str | None:
        """An image in the date's folders that the pattern does not match."""
        for prefix in self._prefixes(_Folders(self.lake, self.date)):
            for item in self.lake.list_objects(prefix):
                is_image = item.key.lower().endswith((*IMAGE_SUFFIXES, ".tar", ".parquet"))
                is_read = not is_image or self.pattern.match(item.key) is not None
                if not is_read and stray_reason(item.key) is None:
                    return item.key
        return None


def _columns_of(page: ListedPage) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            of_texts(page.keys),
            of_numbers(np.array(page.sizes_bytes, np.int64)),
            of_texts(page.etags),
        ],
        names=["key", "bytes", "etag"],
    )


def _is_link_out(lake: Lake, key: str) -> bool:
    """Whether a path leads out of the lake, and is not read; logs a warning if it does."""
    leads_out = stray_reason(key) is None and lake.leads_out(key)
    if leads_out:
        log.warning(
            "%s is a link that leads out of the lake: it is not followed, and its images are left "
            "out. Give --follow-links to read them.",
            lake.uri(key),
        )
    return leads_out


def _shown(lake: Lake, key: str) -> str:
    reason = stray_reason(key.rstrip("/"))
    if reason is None and lake.leads_out(key.rstrip("/")):
        reason = "it is a link that leads out of the lake, and --follow-links is not given"
    return repr(key) if reason is None else f"{key!r}, which is skipped: {reason}"


def _explain_nothing(lake: Lake) -> ConfigError:
    """Explain, as an error to show, why a listing is empty."""
    if lake.is_s3:
        return ConfigError(
            f"there are no objects under {lake.url}: check --images; a prefix that does not exist "
            "looks the same as an empty one."
        )
    folder = Path(lake.url)
    if not folder.exists():
        return ConfigError(f"there is no folder {folder}: check --images.")
    if not folder.is_dir():
        return ConfigError(
            f"{folder} is a file, neither a folder nor a manifest: give --images the folder that "
            "contains it, or a .csv, .parquet or manifest.json."
        )
    return ConfigError(f"there are no files under {folder}: check --images.")


def find_dates(lake: Lake, pattern: KeyPattern) -> list[str]:
    """Every date that the lake has images of, sorted.

    Lists only folders if the date is part of a folder's name.

    Raises:
        ConfigError: The pattern has no date, or no key matches it.
    """
    if pattern.text is None or not pattern.has_date:
        raise ConfigError(
            "the dates are taken from the keys, so --key-pattern needs {date} (or {year}, {month} "
            "and {day}). Without it, give `score` one --date YYYY-MM-DD."
        )
    segments = pattern.segments
    last = max(i for i, s in enumerate(segments) if re.search(r"\{(date|year|month|day)\}", s))
    dates: set[str] = set()
    if last < len(segments) - 1:
        above = segments[: last + 1]
        others = []
        for folder in _Folders(lake, None).matching(above):
            date = date_of_folders(above, folder[:-1])
            if date is None:
                others.append(folder)
            else:
                dates.add(date)
        num, example = len(others), next(iter(others), None)
    else:
        listing = Listing(lake, pattern, None)
        dates.update(ref.date for ref in listing if ref.date)
        num, example = listing.num_left_out, listing.example_left_out
    if not dates:
        raise Listing(lake, pattern, None).explain_empty()
    if num:
        log.warning(
            "%d names under %s are skipped: they contain no date that the key pattern %r reads, "
            "for example %r.",
            num, lake.url, pattern.text, example,
        )  # fmt: skip
    return sorted(dates)


@dataclass(slots=True)
class _Folders:
    """Finds the folders that match a pattern; counts those that cannot match."""

    lake: Lake
    date: str | None
    """Date of the wanted images; None for all."""
    num_left_out: int = 0
    """Folders that do not match, or whose name cannot be used."""
    example_left_out: str | None = None

    def matching(self, segments: list[str], prefix: str = "") -> Iterator[str]:
        """Yield the folders that match a pattern's segments, each ending in '/' ('' for none)."""
        if not segments:
            yield prefix
            return
        first, rest = segments[0], segments[1:]
        if not has_placeholder(first):
            yield from self.matching(rest, f"{prefix}{first}/")
            return
        (head,) = literal_prefixes(first, None)

        def is_of_another_date(folder: str) -> bool:
            fits = folder_fits(first, folder[len(prefix) : -1], self.date)
            return fits == (True, False) and stray_reason(folder[:-1]) is None

        for folder in self.lake.list_dirs(prefix + head, skips=is_of_another_date):
            is_match, is_wanted = folder_fits(first, folder[len(prefix) : -1], self.date)
            leads_out = is_match and is_wanted and _is_link_out(self.lake, folder[:-1])
            if not is_match or leads_out or stray_reason(folder[:-1]) is not None:
                self.num_left_out += 1
                self.example_left_out = self.example_left_out or folder
            elif is_wanted:
                yield from self.matching(rest, folder)
