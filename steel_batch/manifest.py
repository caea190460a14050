"""Which images there are: key patterns, listings and manifests, as one stream of references.

A key pattern reads keys below the lake's root: ``{line}``, ``{date}`` (or ``{year}``, ``{month}``,
``{day}``) and ``{image_id}`` fill the columns of those names, any other ``{name}`` becomes a tag,
``*`` matches anything; none of them crosses a ``/``. Folders that cannot match are never listed:
with a date given, only that date's folders cost requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake, LakeObject
from steel_batch.layout import check_date
from steel_batch.parallel import expand_parallel

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LIST_THREADS = 16
NOT_A_FILE = -1
"""The `offset` of a tar's member that is named like an image, but is a folder, link or device."""
UNSAFE_NAME = -2
"""The `offset` of a tar's member whose name is absolute or has '..' in it."""
_TOKEN = re.compile(r"\{(?P<name>[^{}]*)\}|(?P<star>\*)")
_FIELDS = {"date": r"\d{4}-\d{2}-\d{2}", "year": r"\d{4}", "month": r"\d{2}", "day": r"\d{2}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image of the lake, before it is read."""

    image_key: str
    """The object's key below the lake's root; for a member of a container, ``key#member``."""
    image_id: str
    date: str | None
    line: str | None
    tags: dict[str, str] = field(default_factory=dict)
    object_key: str
    offset: int | None = None
    """First byte of the member in a tar, or its row in a Parquet file; `NOT_A_FILE` or
    `UNSAFE_NAME` for a member that cannot be read."""
    bytes: int
    etag: str


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
        match = _compile(self.text).fullmatch(key)
        return None if match is None else match.groupdict()


def _names(pattern: str) -> list[str]:
    return [m["name"] for m in _TOKEN.finditer(pattern) if m["star"] is None]


_COMPILED: dict[str, re.Pattern[str]] = {}


def _compile(pattern: str) -> re.Pattern[str]:
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


def ref_of(fields: dict[str, str], item: LakeObject) -> ImageRef:
    """The reference of one loose image, or of a container, whose key matched a pattern."""
    tags = dict(fields)
    image_id = tags.pop("image_id", "")
    line = tags.pop("line", None)
    date = tags.pop("date", None)
    if "year" in tags:
        date = f"{tags.pop('year')}-{tags.pop('month')}-{tags.pop('day')}"
    return ImageRef(
        image_key=item.key, image_id=image_id, date=date, line=line, tags=tags,
        object_key=item.key, bytes=item.size_bytes, etag=item.etag,
    )  # fmt: skip


@dataclass(slots=True)
class Listing:
    """The images of one date, and what was seen beside them.

    Iterate once: the counts are complete when the iteration is.
    """

    lake: Lake
    pattern: KeyPattern
    date: str | None
    companion: str = ""
    """Suffix of objects that belong to those of the pattern, and are not counted."""
    num_left_out: int = 0
    """Objects seen that are no image by the pattern."""
    example_left_out: str | None = None

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield every image of the date, in no order, holding few at a time."""
        wanted = self.date if self.pattern.has_date else None
        for item in expand_parallel(
            self._prefixes(wanted), self.lake.list_objects, num_threads=LIST_THREADS
        ):
            fields = self.pattern.match(item.key)
            if fields is None:
                if self.companion and item.key.endswith(self.companion):
                    continue
                self.num_left_out += 1
                self.example_left_out = self.example_left_out or item.key
                continue
            ref = ref_of(fields, item)
            if wanted is None or ref.date == wanted:
                yield ref

    def _prefixes(self, date: str | None) -> Iterator[str]:
        if self.pattern.text is None:
            yield ""
        else:
            segments = self.pattern.segments(date)
            yield from (prefix + _head(segments[-1]) for prefix in _walk(self.lake, segments[:-1]))

    def explain_empty(self) -> ConfigError:
        """Why nothing was found, as the error to show."""
        example = next(iter(self.lake.list_objects()), None)
        if example is None:
            return _explain_nothing(self.lake)
        if self.pattern.text is None:
            return ConfigError(
                f"no image files below {self.lake.url}: found for example {example.key!r}; "
                f"expected names ending in {', '.join(IMAGE_SUFFIXES)}. Give --key-pattern for "
                "images with other names, or for images in '*.tar' or '*.parquet'."
            )
        if self.example_left_out is None and self.pattern.match(example.key) is not None:
            return ConfigError(
                f"there are no images of {self.date} below {self.lake.url}; the key pattern "
                f"{self.pattern.text!r} fits others, for example {example.key!r}. Give another "
                "--date."
            )
        example_key = self.example_left_out or example.key
        date = f" and the date {self.date}" if self.pattern.has_date and self.date else ""
        return ConfigError(
            f"no key below {self.lake.url} matches the key pattern {self.pattern.text!r}{date}: "
            f"found for example {example_key!r}. Adapt --key-pattern to that"
            f"{', or give another --date' if date else ''}."
        )


def _explain_nothing(lake: Lake) -> ConfigError:
    """Why a lake lists no object at all, as the error to show."""
    if lake.is_s3:
        return ConfigError(
            f"there are no objects below {lake.url}: check --images; a prefix that does not exist "
            "looks the same as an empty one."
        )
    folder = Path(lake.url)
    if not folder.exists():
        return ConfigError(f"there is no folder {folder}: check --images.")
    if not folder.is_dir():
        return ConfigError(
            f"{folder} is a file and neither a folder nor a manifest: give --images the folder "
            "that it lies in, or a .csv, .parquet or manifest.json."
        )
    return ConfigError(f"there are no files below {folder}: check --images.")


def find_dates(lake: Lake, pattern: KeyPattern) -> list[str]:
    """Every date that the lake has images of, in order.

    Lists folders only, where the date stands in a folder's name.

    Raises:
        ConfigError: The pattern has no date, or no key matches it.
    """
    if pattern.text is None or not pattern.has_date:
        raise ConfigError(
            "the dates are taken from the keys, so --key-pattern needs {date} (or {year}, {month} "
            "and {day}); otherwise `score` takes one --date YYYY-MM-DD."
        )
    segments = pattern.segments(None)
    last = max(i for i, s in enumerate(segments) if re.search(r"\{(date|year|month|day)\}", s))
    dates: set[str] = set()
    if last < len(segments) - 1:
        folder_pattern = _compile("/".join(segments[: last + 1]))
        for folder in _walk(lake, segments[: last + 1]):
            fields = folder_pattern.fullmatch(folder.rstrip("/"))
            if fields is not None:
                found = fields.groupdict()
                dates.add(found.get("date") or "{year}-{month}-{day}".format(**found))
    else:
        dates.update(ref.date for ref in Listing(lake, pattern, None) if ref.date)
    if not dates:
        raise Listing(lake, pattern, None).explain_empty()
    for date in dates:
        try:
            check_date(date)
        except ConfigError as error:
            raise ConfigError(
                f"keys below {lake.url} say the date {date}: {error} Rename what is called so, or "
                "give the --date that you mean."
            ) from error
    return sorted(dates)


def _head(segment: str) -> str:
    """The literal beginning of a segment, which a listing can use as its prefix."""
    token = _TOKEN.search(segment)
    return segment if token is None else segment[: token.start()]


def _walk(lake: Lake, segments: list[str], prefix: str = "") -> Iterator[str]:
    """The folders that match a pattern's segments, each ending in '/' ('' for none)."""
    if not segments:
        yield prefix
        return
    first, rest = segments[0], segments[1:]
    if _TOKEN.search(first) is None:
        yield from _walk(lake, rest, f"{prefix}{first}/")
        return
    pattern = _compile(first)
    for folder in lake.list_dirs(prefix + _head(first)):
        if pattern.fullmatch(folder.removeprefix(prefix).rstrip("/")):
            yield from _walk(lake, rest, folder)
