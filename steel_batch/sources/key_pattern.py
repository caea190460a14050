"""Key patterns: what the key of an image states about it.

A key pattern matches keys under the lake's root. ``{line}``, ``{date}`` (or ``{year}``,
``{month}``, ``{day}``) and ``{image_id}`` fill the columns of those names; any other ``{name}``
becomes a tag; ``*`` matches anything. None of them matches a ``/``. A date may have any spelling of
`sources.dates`; a key in the usual spelling (``2026-11-05``) is always read in that spelling.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from steel_batch.errors import ConfigError
from steel_batch.sources.dates import LENIENT, STRICT, agrees, date_of, may_be_a_date, spellings

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm")
TOKEN = re.compile(r"\{(?P<name>[^{}]*)\}|(?P<star>\*)")
_SPELLINGS = (STRICT, LENIENT)


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """A compiled key pattern. `KeyPattern(None)` matches every image file."""

    text: str | None
    names_images: bool = True
    """Whether keys name images; a container's key has no ``{image_id}``."""

    def __post_init__(self) -> None:
        """Check the placeholders.

        Raises:
            ConfigError: A placeholder's name is malformed, repeated or missing.
        """
        if self.text is None:
            return
        names = _names(self.text)
        if self.text.count("{") != self.text.count("}"):
            raise ConfigError(
                f"key pattern {self.text!r} has unbalanced '{{' and '}}': placeholders are "
                "written as {name}."
            )
        wrong = [name for name in names if not name.isidentifier()]
        if wrong or len(set(names)) != len(names) or self.text.startswith("/"):
            raise ConfigError(
                f"key pattern {self.text!r} is not valid: each placeholder must be {{name}} with "
                "letters, digits and '_', used once, and the pattern must be relative to --images."
            )
        if not self.names_images:
            if "image_id" in names:
                raise ConfigError(
                    f"key pattern {self.text!r} has {{image_id}} in the name of a container, which "
                    "holds many images: write {shard} or '*' there, and for a tar's members "
                    "'….tar#{image_id}.jpg'."
                )
        elif "image_id" not in names:
            raise ConfigError(
                f"key pattern {self.text!r} has no {{image_id}}: mark the part of the key that "
                "names the image, for example 'line={line}/date={date}/{image_id}.jpg'."
            )
        if {"year", "month", "day"} & set(names) and not {"year", "month", "day"} <= set(names):
            raise ConfigError(
                f"key pattern {self.text!r} has only some of {{year}}, {{month}} and {{day}}: a "
                "date needs all three, or {date} alone."
            )

    @property
    def names(self) -> set[str]:
        """The names of the placeholders."""
        return set(_names(self.text or ""))

    @property
    def is_named_by_file(self) -> bool:
        """Whether an image's id is its file name without the suffix, as without a pattern."""
        name, _, suffix = (self.text or "{image_id}.jpg").rpartition("/")[2].rpartition("}")
        return name == "{image_id" and suffix.lower() in IMAGE_SUFFIXES

    @property
    def has_date(self) -> bool:
        """Whether keys state a date."""
        return self.text is not None and ("{date}" in self.text or "{year}" in self.text)

    @property
    def segments(self) -> list[str]:
        """The pattern, split at '/'."""
        return (self.text or "").split("/")

    def match(self, key: str) -> dict[str, str] | None:
        """The placeholders' values if the whole key matches, else None.

        A key with an invalid date does not match.
        """
        if self.text is None:
            name = key.rpartition("/")[2]
            stem, dot, suffix = name.rpartition(".")
            return {"image_id": stem} if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else None
        match = _compile(self.text, 0).fullmatch(key)
        if not _spells_dates(self.text):
            return None if match is None else match.groupdict()
        if match is not None and date_of(fields := match.groupdict()) is not None:
            return fields
        match = _compile(self.text, 1).fullmatch(key)
        if match is not None and date_of(fields := match.groupdict()) is not None:
            return fields
        return None


def folder_fits(segment: str, name: str, date: str | None) -> tuple[bool, bool]:
    """Whether a folder's name matches a pattern's segment.

    Returns:
        Whether it matches, and whether it may lead to images of the date (of any date, for None).
    """
    readings = _dated_readings(segment, name)
    return bool(readings), any(date is None or agrees(fields, date) for fields in readings)


@functools.lru_cache(maxsize=16_384)
def _dated_readings(segment: str, name: str) -> list[dict[str, str]]:
    """Cached, as each date of many looks at the folders of all."""
    return [fields for fields in _readings(segment, name) if may_be_a_date(fields)]


def date_of_folders(segments: list[str], folder: str) -> str | None:
    """The date stated by folders, for the first segments of a pattern; None if it is invalid."""
    readings = _readings("/".join(segments), folder)
    return next((date for fields in readings if (date := date_of(fields)) is not None), None)


def literal_prefixes(segment: str, date: str | None) -> list[str]:
    """The literal beginnings of names that may belong to a date; none is a prefix of another.

    Args:
        segment: The last segment of a pattern.
        date: YYYY-MM-DD; None for any date.
    """
    if date is None:
        return [_literal_prefix(segment)]
    parts: list[list[str]] = []
    position = 0
    for token in TOKEN.finditer(segment):
        is_of_date = token["name"] in STRICT
        parts.append([segment[position : token.start()]])
        parts.append(spellings(token["name"], date) if is_of_date else [token[0]])
        position = token.end()
    parts.append([segment[position:]])
    found = sorted({_literal_prefix("".join(chosen)) for chosen in itertools.product(*parts)})
    shortest: list[str] = []
    for prefix in found:  # sorted, so that a prefix comes before what begins with it
        if not shortest or not prefix.startswith(shortest[-1]):
            shortest.append(prefix)
    return shortest


def _names(pattern: str) -> list[str]:
    return [m["name"] for m in TOKEN.finditer(pattern) if m["star"] is None]


def _readings(pattern: str, text: str) -> Iterator[dict[str, str]]:
    """Yield the placeholders' values for each spelling of dates, the usual one first."""
    for spelling in range(len(_SPELLINGS)):
        match = _compile(pattern, spelling).fullmatch(text)
        if match is not None:
            yield match.groupdict()
        if not _spells_dates(pattern):
            return


@functools.cache
def _spells_dates(pattern: str) -> bool:
    return not STRICT.keys().isdisjoint(_names(pattern))


_COMPILED: dict[tuple[str, int], re.Pattern[str]] = {}


def _compile(pattern: str, spelling: int) -> re.Pattern[str]:
    """Compile a pattern, or some of its segments, with a group per placeholder."""
    key = (pattern, spelling)
    if key not in _COMPILED:
        parts, position = [], 0
        for token in TOKEN.finditer(pattern):
            parts.append(re.escape(pattern[position : token.start()]))
            name = token["name"]
            of_date = _SPELLINGS[spelling].get(name, "[^/]+")
            parts.append("[^/]*" if name is None else f"(?P<{name}>{of_date})")
            position = token.end()
        parts.append(re.escape(pattern[position:]))
        _COMPILED[key] = re.compile("".join(parts))
    return _COMPILED[key]


def _literal_prefix(segment: str) -> str:
    """The literal beginning of a segment, usable as the prefix of a listing."""
    token = TOKEN.search(segment)
    return segment if token is None else segment[: token.start()]


def has_placeholder(segment: str) -> bool:
    """Whether a segment can match anything other than its own text."""
    return TOKEN.search(segment) is not None
