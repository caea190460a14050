"""What keys state, for many keys at once: the columns of a key pattern's placeholders.

Arrow's regular expressions (RE2) match a column in a tenth of the time that Python needs key by
key. They have no lookarounds and need text in UTF-8. A pattern that they cannot express leaves its
keys unread here. Whoever calls this passes keys that are not read to `KeyPattern.match`, which
decides.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.sources.arrays import flags_in, numbers_in, of_flags, of_numbers, of_texts
from steel_batch.sources.dates import STRICT, date_of
from steel_batch.sources.image_ref import IMAGES
from steel_batch.sources.key_pattern import IMAGE_SUFFIXES, TOKEN, KeyPattern
from steel_batch.sources.stray import SUSPECT

_NUMBER: Final = "(?:[0-9]{2}|[0-9])"
_LENIENT: Final = {
    "date": "(?:"
    + "|".join(f"[0-9]{{4}}{s}{_NUMBER}{s}{_NUMBER}" for s in ("-", "_", r"\."))
    + "|[0-9]{8})",
    "year": "[0-9]{4}",
    "month": _NUMBER,
    "day": _NUMBER,
}
"""`dates.LENIENT` without lookarounds: the same next to what is no digit."""
_SPELLINGS: Final = (STRICT, _LENIENT)
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$]")
_IMAGE_FILE: Final = (
    r"(?s)\A(?:.*/)?(?P<g0>[^/]*)(?i:"
    + "|".join(_SPECIAL.sub(r"\\\g<0>", suffix) for suffix in IMAGE_SUFFIXES)
    + r")\z"
)
_BETWEEN: Final = "\x1f"


@dataclass(frozen=True, slots=True)
class KeyColumns:
    """What each key of a column states; see `ImageRef`."""

    is_read: npt.NDArray[np.bool_]
    """Whether the key is that of an image and matches. The other columns hold anything if not."""
    image_id: pa.StringArray
    line: pa.StringArray
    date: pa.StringArray
    tags: dict[str, pa.StringArray]
    """The values of the other placeholders, in the order of the pattern."""


def read_keys(pattern: KeyPattern, keys: pa.StringArray) -> KeyColumns:
    """Read what keys state.

    Args:
        pattern: The key pattern.
        keys: Keys relative to the lake's root, without nulls.

    Returns:
        The columns. Keys that are not read may still match, or have a name that is never an
        image's: `stray_reason` and `KeyPattern.match` decide.
    """
    is_read = np.zeros(len(keys), np.bool_)
    columns: dict[str, pa.StringArray] = {}
    dates = pa.nulls(len(keys), pa.string())
    places = of_numbers(np.arange(len(keys)))
    for expression in _expressions(pattern.text):
        left = keys if len(places) == len(keys) else keys.take(places)
        found = pc.extract_regex(left, expression.text)
        values = dict(zip(expression.names, found.flatten(), strict=True))
        is_found = found.is_valid()
        if expression.has_date:
            said = _dates(values)
            is_found = pc.and_(is_found, said.is_valid())
        else:
            said = pa.nulls(len(left), pa.string())
        if len(left) == len(keys):
            columns, dates, is_read = values, said, flags_in(is_found)
        else:
            taken = places.filter(is_found)
            mask = np.zeros(len(keys), np.bool_)
            mask[numbers_in(taken)] = True
            columns = {
                name: pc.replace_with_mask(column, of_flags(mask), values[name].filter(is_found))
                for name, column in columns.items()
            }
            dates = pc.replace_with_mask(dates, of_flags(mask), said.filter(is_found))
            is_read = is_read | mask
        places = of_numbers(np.flatnonzero(~is_read))
        if not len(places):
            break
    is_read = is_read & ~_is_suspect(keys)
    for name in STRICT:
        columns.pop(name, None)
    image_id = columns.pop("image_id", None)
    line = columns.pop("line", None)
    return KeyColumns(
        is_read,
        of_texts([""] * len(keys)) if image_id is None else image_id,
        pa.nulls(len(keys), pa.string()) if line is None else line,
        dates,
        columns,
    )


def _is_suspect(keys: pa.StringArray) -> npt.NDArray[np.bool_]:
    return flags_in(pc.match_substring_regex(keys, SUSPECT))


def _dates(values: dict[str, pa.StringArray]) -> pa.StringArray:
    """The date that each row's placeholders state; null if it is no day of the calendar."""
    names = [name for name in STRICT if name in values]
    parts = [values[name] for name in names]
    texts = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _BETWEEN)
    spelled = texts.dictionary_encode()
    days = [
        date_of(dict(zip(names, text.split(_BETWEEN), strict=True)))
        for text in spelled.dictionary.to_pylist()
    ]
    return of_texts(days).take(spelled.indices)


@dataclass(frozen=True, slots=True)
class _Expression:
    """A key pattern in one spelling of dates, as a regular expression of RE2."""

    text: str
    names: tuple[str, ...]
    """The placeholders, one for each group."""

    @property
    def has_date(self) -> bool:
        return not STRICT.keys().isdisjoint(self.names)


@functools.lru_cache(maxsize=64)
def _expressions(pattern: str | None) -> tuple[_Expression, ...]:
    """The spellings of a pattern, the usual one first; as many as can be expressed."""
    if pattern is None:
        return (_Expression(_IMAGE_FILE, ("image_id",)),)
    found: list[_Expression] = []
    for number, spelling in enumerate(_SPELLINGS):
        parts, names, position = [], list[str](), 0
        for token in TOKEN.finditer(pattern):
            parts.append(_SPECIAL.sub(r"\\\g<0>", pattern[position : token.start()]))
            name = token["name"]
            position = token.end()
            if name is None:
                parts.append("[^/]*")
                continue
            around = (pattern[token.start() - 1 : token.start()], pattern[position : position + 1])
            if number and name in STRICT and any(c.isdigit() or c in "{}*" for c in around if c):
                return tuple(found)  # what is next to it may be a digit
            parts.append(f"(?P<g{len(names)}>{spelling.get(name, '[^/]+')})")
            names.append(name)
        parts.append(_SPECIAL.sub(r"\\\g<0>", pattern[position:]))
        expression = _Expression(r"\A" + "".join(parts) + r"\z", tuple(names))
        if not _is_accepted(expression):
            return tuple(found)
        found.append(expression)
        if not expression.has_date:
            break
    return tuple(found)


def _is_accepted(expression: _Expression) -> bool:
    try:
        pc.extract_regex(of_texts([""]), expression.text)
    except (pa.ArrowException, UnicodeError):
        return False  # text that is not UTF-8, or too long for RE2
    return bool(expression.names)


def image_batch(
    columns: KeyColumns, keys: pa.StringArray, sizes: pa.Int64Array, etags: pa.StringArray
) -> pa.RecordBatch:
    """The `IMAGES` of objects of which nothing but keys, sizes and etags are known."""
    tags = tag_maps(list(columns.tags.items()), len(keys))
    return pa.RecordBatch.from_arrays(
        [
            keys,
            columns.image_id,
            columns.line,
            tags,
            keys,
            pa.nulls(len(keys), pa.int64()),
            sizes,
            etags,
            columns.date,
        ],
        schema=IMAGES,
    )


def tag_maps(sources: list[tuple[str, Any]], num_rows: int) -> pa.MapArray:
    """The tags of each row.

    Args:
        sources: Names of tags, each once, and the column of each one's values; null for a row
            without the tag.
        num_rows: The length of each column.
    """
    num_tags = len(sources)
    if not num_tags:
        offsets = np.zeros(num_rows + 1, np.int32)
        none = of_texts([])
        return pa.MapArray.from_arrays(of_numbers(offsets), none, none).cast(schema.TAGS)
    names = of_texts([name for name, _ in sources])
    is_there = np.stack([flags_in(values.is_valid()) for _, values in sources], axis=1)
    rows, tags = np.nonzero(is_there)
    offsets = np.concatenate([[0], np.cumsum(is_there.sum(axis=1))]).astype(np.int32)
    values = pa.concat_arrays([values for _, values in sources])
    return pa.MapArray.from_arrays(
        of_numbers(offsets),
        names.take(of_numbers(tags)),
        values.take(of_numbers(tags * num_rows + rows)),
    ).cast(schema.TAGS)
