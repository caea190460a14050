"""Key patterns: what the key of an image says of it.

A key pattern reads keys below the lake's root: ``{line}``, ``{date}`` (or ``{year}``, ``{month}``,
``{day}``) and ``{image_id}`` fill the columns of those names, any other ``{name}`` becomes a tag,
``*`` matches anything; none of them crosses a ``/``. Folders that cannot match are never listed:
with a date given, only that date's folders cost requests (`sources.prefix`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from steel_batch.errors import ConfigError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_TOKEN = re.compile(r"\{(?P<name>[^{}]*)\}|(?P<star>\*)")
_FIELDS = {"date": r"\d{4}-\d{2}-\d{2}", "year": r"\d{4}", "month": r"\d{2}", "day": r"\d{2}"}


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """A compiled key pattern. `KeyPattern(None)` takes every image file."""

    text: str | None
    names_images: bool = True
    """Whether each key is an image's; a container's key has no ``{image_id}``."""

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
                f"key pattern {self.text!r} has a '{{' or '}}' without the other: placeholders are "
                "{name}."
            )
        wrong = [name for name in names if not name.isidentifier()]
        if wrong or len(set(names)) != len(names) or self.text.startswith("/"):
            raise ConfigError(
                f"key pattern {self.text!r} is not usable: placeholders are {{name}} with letters, "
                "digits and '_', each once, and the pattern is relative to --images."
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
                f"key pattern {self.text!r} has no {{image_id}}: say which part of the key names "
                "the image, for example 'line={line}/date={date}/{image_id}.jpg'."
            )
        if {"year", "month", "day"} & set(names) and not {"year", "month", "day"} <= set(names):
            raise ConfigError(
                f"key pattern {self.text!r} has some of {{year}}, {{month}} and {{day}}: a date "
                "needs all three, or {date} alone."
            )

    @property
    def names(self) -> set[str]:
        """The placeholders."""
        return set(_names(self.text or ""))

    @property
    def is_named_by_file(self) -> bool:
        """Whether an image's id is its file's name without the suffix, as without a pattern."""
        name, _, suffix = (self.text or "{image_id}.jpg").rpartition("/")[2].rpartition("}")
        return name == "{image_id" and suffix.lower() in IMAGE_SUFFIXES

    @property
    def has_date(self) -> bool:
        """Whether a key says its date."""
        return self.text is not None and ("{date}" in self.text or "{year}" in self.text)

    def segments(self, date: str | None) -> list[str]:
        """The pattern cut at '/', with the date's placeholders filled where one is given."""
        text = self.text or ""
        if date is not None:
            year, month, day = date.split("-")
            known = {"date": date, "year": year, "month": month, "day": day}
            for name, value in known.items():
                text = text.replace("{" + name + "}", value)
        return text.split("/")

    def match(self, key: str) -> dict[str, str] | None:
        """The placeholders' values where the whole key matches, else None."""
        if self.text is None:
            name = key.rpartition("/")[2]
            stem, dot, suffix = name.rpartition(".")
            return {"image_id": stem} if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else None
        match = compile_pattern(self.text).fullmatch(key)
        return None if match is None else match.groupdict()


def _names(pattern: str) -> list[str]:
    return [m["name"] for m in _TOKEN.finditer(pattern) if m["star"] is None]


_COMPILED: dict[str, re.Pattern[str]] = {}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern, or some of its segments, as a regular expression with a group per placeholder."""
    if pattern not in _COMPILED:
        parts, position = [], 0
        for token in _TOKEN.finditer(pattern):
            parts.append(re.escape(pattern[position : token.start()]))
            name = token["name"]
            parts.append("[^/]*" if name is None else f"(?P<{name}>{_FIELDS.get(name, '[^/]+')})")
            position = token.end()
        parts.append(re.escape(pattern[position:]))
        _COMPILED[pattern] = re.compile("".join(parts))
    return _COMPILED[pattern]


def literal_prefix(segment: str) -> str:
    """The literal beginning of a segment, which a listing can use as its prefix."""
    token = _TOKEN.search(segment)
    return segment if token is None else segment[: token.start()]


def has_placeholder(segment: str) -> bool:
    """Whether a segment can match more than its own text."""
    return _TOKEN.search(segment) is not None
