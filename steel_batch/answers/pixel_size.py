"""The size of a pixel on the strip, as stated by the user; image files do not contain it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from steel_batch.errors import ConfigError

_SIZE: Final = re.compile(r"(?P<x>[0-9.]+(?:e-?\d+)?)(?:[x×](?P<y>[0-9.]+(?:e-?\d+)?))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PixelSize:
    """The size of one pixel, in millimetres."""

    x_mm: float
    """Along a row of the image."""
    y_mm: float
    """Down a column."""


@dataclass(frozen=True, slots=True)
class PixelSizes:
    """The pixel size of each line, if known."""

    of_line: dict[str, PixelSize]
    of_others: PixelSize | None = None
    """For lines that are not named, and for images without a line."""


def parse_pixel_sizes(texts: Iterable[str]) -> PixelSizes:
    """Parse sizes such as ``0.35``, ``0.35x0.5`` (width and height) or ``2=0.35`` for one line.

    Raises:
        ConfigError: One is not a size, or a line has two.
    """
    of_line: dict[str, PixelSize] = {}
    of_others: PixelSize | None = None
    for text in texts:
        line, equals, size = text.rpartition("=")
        found = _parse(size, text)
        if (line in of_line) if equals else (of_others is not None):
            whose = f"line {line!r}" if equals else "all lines"
            raise ConfigError(f"pixel size {text!r}: the size of {whose} was given already.")
        if equals:
            of_line[line] = found
        else:
            of_others = found
    return PixelSizes(of_line, of_others)


def _parse(size: str, text: str) -> PixelSize:
    match = _SIZE.fullmatch(size.strip())
    try:
        x_mm = float(match["x"]) if match else math.nan
        y_mm = float(match["y"]) if match and match["y"] else x_mm
    except ValueError:
        x_mm = y_mm = math.nan
    if not (0 < x_mm < math.inf and 0 < y_mm < math.inf):
        raise ConfigError(
            f"pixel size {text!r} is not a size in millimetres: expected 0.35, 0.35x0.5 for width "
            "and height, or 2=0.35 for line 2 only."
        )
    return PixelSize(x_mm, y_mm)


def size_sql(sizes: PixelSizes, axis: str, line: str) -> str:
    """Return an SQL expression for the millimetres of a pixel of a line.

    Args:
        sizes: The sizes.
        axis: ``x`` or ``y``.
        line: An expression for the line.
    """
    others = "NULL::DOUBLE" if sizes.of_others is None else _mm(sizes.of_others, axis)
    cases = [
        f"WHEN '{name.replace(chr(39), chr(39) * 2)}' THEN {_mm(size, axis)}"
        for name, size in sizes.of_line.items()
    ]
    return f"(CASE {line} {' '.join(cases)} ELSE {others} END)" if cases else others


def _mm(size: PixelSize, axis: str) -> str:
    return f"{size.x_mm if axis == 'x' else size.y_mm!r}::DOUBLE"
