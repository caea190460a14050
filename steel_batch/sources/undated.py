"""Images that do not state a date, counted as --date: finds those that must be of another one.

Without ``{date}`` in the key pattern every image counts as --date. That is right if a prefix holds
one day, and a mistake that no table shows if it holds several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.errors import ConfigError
from steel_batch.sources.dates import calendar_day, read_date, spellings
from steel_batch.sources.image_ref import IMAGES, ImageRef, ref_batches, refs_of

_NAMED: Final = re.compile(
    r"(?<![^/#])(?:date=([0-9][0-9_.-]*[0-9])|year=([0-9]+)/month=([0-9]+)/day=([0-9]+))(?![^/.#])"
)
"""A date as `synth`, `pack` or Hive write it in a folder's name."""
_MAY_NAME: Final = "(?:^|[/#])(?:date=[0-9]|year=[0-9]+/month=[0-9]+/day=[0-9])"
"""An expression of RE2 that every key with such a name contains."""


@dataclass(slots=True)
class ImagesByDate:
    """Checks the images of a date as they pass, if they do not state their own date.

    Iterate only once; the counts are complete after the iteration.
    """

    images: Iterable[ImageRef]
    place: str
    """The value of `--images`."""
    key_pattern: str | None
    date: str
    """YYYY-MM-DD; the date that the images count as."""
    note: Callable[[int], None] = lambda _: None
    """Called with the number of images so far, now and then."""
    num_images: int = 0
    num_undated: int = 0
    """How many of them state no date."""

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield every image; see `batches`."""
        return refs_of(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield every image; see `ImageColumns`.

        Raises:
            ConfigError: The key of an image that would count as the date contains another date.
        """
        of_place = _dates_named(self.place)
        is_place_wrong = bool(of_place) and self.date not in of_place
        for batch in ref_batches(self.images, IMAGES):
            self.num_images += batch.num_rows
            self.note(self.num_images)
            undated = batch.filter(batch["date"].is_null())
            is_named = pc.match_substring_regex(undated["image_key"], _MAY_NAME)
            suspects = undated if is_place_wrong else undated.filter(is_named)
            num_named = 0
            for row, key in enumerate(suspects["image_key"].to_pylist()):
                of_key = _dates_named(key)
                num_named += bool(of_key)
                named = of_key or of_place
                if named and self.date not in named:
                    (ref,) = refs_of([suspects.slice(row, 1)])
                    raise self._of_another_date(ref, named[-1])
            if not of_place:
                self.num_undated += undated.num_rows - num_named
            yield batch

    @property
    def warning(self) -> str | None:
        """A warning for the user; None if the images or their place state the date."""
        months, days = (spellings(name, self.date) for name in ("month", "day"))
        folders = [f"{self.date[:4]}/{month}/{day}" for month in months for day in days]
        forms = (*spellings("date", self.date), *folders)
        if not self.num_undated or any(form in self.place for form in forms):
            return None
        is_all = self.num_undated == self.num_images
        share = "all" if is_all else f"{self.num_undated:,} of"
        images = f"{share} {self.num_images:,} images of {self.place}"
        return f"{self._lack}: {images} count as {self.date}."

    def _of_another_date(self, ref: ImageRef, date: str) -> ConfigError:
        is_inside = ref.object_key != ref.image_key
        name = f"*.{ref.object_key.rpartition('.')[2]}" if is_inside else "{image_id}.jpg"
        return ConfigError(
            f"{ref.image_key!r} in {self.place} contains date={date} in its name but would count "
            f"as {self.date}: {self._lack}. Give --key-pattern with {{date}}, such as "
            f"'line={{line}}/date={{date}}/{name}', or another --date."
        )

    @property
    def _lack(self) -> str:
        if self.key_pattern is None:
            return "there is no key pattern"
        return f"the key pattern {self.key_pattern!r} has no {{date}}"


def _dates_named(key: str) -> list[str]:
    """The days of the calendar that a key's folders name."""
    found = (read_date(date) if date else calendar_day(*ymd) for date, *ymd in _NAMED.findall(key))
    return [date for date in found if date is not None]
