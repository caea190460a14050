"""What every kind of `--images` does: say its dates, and stream the images of one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.sources.image_ref import ImageRef


class Selection(Protocol):
    """The images of one date, and what was seen beside them.

    Iterate once: the counts are complete when the iteration is.
    """

    num_left_out: int
    """What was seen and is no image by the key pattern."""
    example_left_out: str | None

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield every image, in no order, holding few at a time.

        Raises:
            ConfigError: A container or manifest is damaged; it names the place.
        """

    def explain_empty(self) -> ConfigError:
        """Why nothing was found, as the error to show."""


class Source(Protocol):
    """Where images come from. Selections of it may be iterated in several threads at once."""

    @property
    def lake(self) -> Lake:
        """What the references' object keys are relative to."""

    @property
    def is_seen(self) -> bool:
        """Whether images are found where they lie, and not taken from a list."""

    def dates(self) -> list[str]:
        """Every date that there are images of, in order.

        Where only the images together say it, they are read for that once and kept on disk, as
        long as the source is there: what is selected later is as it was then.

        Raises:
            ConfigError: Nothing says the images' dates, or there are no images.
        """

    def select(self, date: str | None) -> Selection:
        """The images of a date, or all of them. What says no date is of every date."""


def span_of(dates: Collection[str]) -> str:
    """The first and the last of some dates, for messages."""
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"
