"""What every kind of `--images` provides: its dates, and a stream of the images of one date."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.sources.image_ref import ImageRef


@dataclass(slots=True)
class NotThere:
    """Listed images that do not exist, as far as they were looked up."""

    num: int = 0
    example: str | None = None
    """The key of the first."""


class Selection(Protocol):
    """The images of one date, and counts of what else was found.

    Iterate only once; the counts are complete after the iteration.
    """

    @property
    def num_left_out(self) -> int:
        """Objects found that are not images by the key pattern."""

    @property
    def example_left_out(self) -> str | None:
        """The first of them."""

    @property
    def not_there(self) -> NotThere:
        """Images that do not exist: a manifest may list some, a listing does not."""

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield every image, in no particular order, holding few at a time.

        Raises:
            ConfigError: A container or manifest is damaged; the message names it.
        """

    def explain_empty(self) -> ConfigError:
        """Explain, as an error to show, why no image was found."""


class Source(Protocol):
    """Where images come from. Several threads may iterate over its selections at once."""

    @property
    def lake(self) -> Lake:
        """The root that the references' object keys are relative to."""

    @property
    def is_seen(self) -> bool:
        """Whether images were found by listing the lake, and not taken from a manifest."""

    def dates(self) -> list[str]:
        """Every date with images, sorted.

        If only the images themselves state it, they are read once and kept on disk for the lifetime
        of the source; later selections return the images as of that time.

        Raises:
            ConfigError: Nothing states the images' dates, or there are no images.
        """

    def select(self, date: str | None) -> Selection:
        """The images of a date; None selects all. Images without a date belong to every date."""


def span_of(dates: Collection[str]) -> str:
    """The first and the last of some dates, for messages."""
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"
