"""Severstal label files, read strictly.

Both published formats are read: ``ImageId,ClassId,EncodedPixels`` with rows for defects only, and
``ImageId_ClassId,EncodedPixels`` with a row for every class of every image. An unusable row is an
error that names it, because a mask that is shifted or assigned to the wrong image would train a
wrong network. Row 1 is the header.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from steel_batch.errors import InputError, SteelBatchError
from steel_batch.masks.rle import parse_rle
from steel_batch.registry.card import MAX_CLASSES

Masks = dict[int, str]
"""Run-length pairs by class, from 1; empty for a clean image."""
MAX_PROBLEMS: Final = 20
"""Number of problems that a message lists before it only counts them."""
SPLIT_HEADER: Final = ("ImageId", "ClassId", "EncodedPixels")
JOINED_HEADER: Final = ("ImageId_ClassId", "EncodedPixels")
GROUPS_HEADER: Final = ("ImageId", "Group")

csv.field_size_limit(1 << 26)  # the run-lengths of a noisy mask exceed the csv module's default


class LabelError(InputError):
    """A label file has unusable rows; the message lists them."""


def read_labels(
    data: bytes,
    *,
    source: str,
    sizes: Mapping[str, tuple[int, int]],
    num_classes: int | None = None,
) -> dict[str, Masks]:
    """Read a label file.

    Args:
        data: The CSV, UTF-8.
        source: The CSV's name, for messages.
        sizes: Height and width of each image, by file name.
        num_classes: Number of classes; None for as many as an engine can have.

    Returns:
        Masks by image name. Images and classes without pixels are left out.

    Raises:
        LabelError: It lists each row that is wrong and why, up to `MAX_PROBLEMS`.
    """
    reader = _open(data, source)
    header = tuple(field.strip() for field in next(reader, (0, []))[1])
    if header not in (SPLIT_HEADER, JOINED_HEADER):
        raise LabelError(
            f"{source} has the columns {','.join(header) or '(none)'}, expected "
            f"{','.join(SPLIT_HEADER)} or {','.join(JOINED_HEADER)}."
        )
    joined = header == JOINED_HEADER
    masks: dict[str, Masks] = {}
    seen: dict[tuple[str, int], int] = {}
    problems = []
    for number, row in reader:
        try:
            name, class_id, rle = _fields(row, joined, num_classes)
            first = seen.setdefault((name, class_id), number)
            if first != number:
                raise LabelError(f"repeats row {first} ({name}, class {class_id})")
            if name not in sizes:
                raise LabelError(f"contains {name!r}, which is not one of the images")
            height, width = sizes[name]
            has_pixels = len(parse_rle(rle, height * width).start_px) > 0
        except SteelBatchError as error:
            problems.append(f"row {number}: {str(error).rstrip('.')}")
            continue
        if has_pixels:
            masks.setdefault(name, {})[class_id] = rle
    _refuse(source, problems)
    return masks


def read_groups(data: bytes, *, source: str, names: Sequence[str]) -> dict[str, str]:
    """Read which images belong to the same group: ``ImageId,Group``, one row per image.

    Raises:
        LabelError: A row is malformed or repeated, or an image has no row.
    """
    reader = _open(data, source)
    header = tuple(field.strip() for field in next(reader, (0, []))[1])
    if header != GROUPS_HEADER:
        raise LabelError(
            f"{source} has the columns {','.join(header) or '(none)'}, expected "
            f"{','.join(GROUPS_HEADER)}."
        )
    known = frozenset(names)
    groups: dict[str, str] = {}
    problems = []
    for number, row in reader:
        if len(row) != 2 or not row[1].strip():
            problems.append(f"row {number}: expected an image and its group, found {row}")
        elif row[0] in groups:
            problems.append(f"row {number}: repeats {row[0]!r}")
        elif row[0] not in known:
            problems.append(f"row {number}: contains {row[0]!r}, which is not one of the images")
        else:
            groups[row[0]] = row[1].strip()
    problems += [f"{name!r} has no group" for name in names if name not in groups]
    _refuse(source, problems)
    return groups


def _open(data: bytes, source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with its number."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            if row:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(
            f"{source} is not a CSV file in UTF-8: {error}. Save it as plain comma-separated text."
        ) from error


def _fields(row: Sequence[str], joined: bool, num_classes: int | None) -> tuple[str, int, str]:
    expected = 2 if joined else 3
    if len(row) != expected:
        raise LabelError(f"has {len(row)} fields, expected {expected}")
    if joined:
        name, _, class_text = row[0].rpartition("_")
    else:
        name, class_text = row[0], row[1].strip()
    most = num_classes or MAX_CLASSES
    if class_text not in map(str, range(1, most + 1)):
        named = f": --classes names {num_classes}" if num_classes else ""
        raise LabelError(f"has class {class_text!r}, expected 1 to {most}{named}")
    return name, int(class_text), row[-1]


def _refuse(source: str, problems: Sequence[str]) -> None:
    if problems:
        shown = "; ".join(problems[:MAX_PROBLEMS])
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise LabelError(
            f"{source} cannot be used, {len(problems)} problem(s): {shown}{more}. Correct the "
            "file or the flags; nothing was trained."
        )
