"""Labelled images: a folder or prefix of images and a Severstal `train.csv`.

Both published formats are read: ``ImageId,ClassId,EncodedPixels`` with rows for defects only, and
``ImageId_ClassId,EncodedPixels`` with a row for every class of every image. Images without a row,
or with empty ones, are clean; they are known from the listing. Decoding is the very code that
scoring uses. Shape suffixes: H rows, W columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steel_batch.decode import decode_gray, probe
from steel_batch.engine.contract import MAX_CLASSES
from steel_batch.errors import ConfigError, SteelBatchError
from steel_batch.lake import Lake
from steel_batch.manifest import KeyPattern
from steel_batch.rle import MaskError, decode_rle, parse_rle

MAX_PROBLEMS = 20
"""Problems of a label file that are shown before the rest is only counted."""


class LabelError(ConfigError):
    """A label file has rows that cannot be used; the message names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image and its masks, unread."""

    key: str
    etag: str
    masks: Mapping[int, str]
    """Run-length pairs by class, from 1; empty for a clean image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples in the order of their keys."""

    lake: Lake
    examples: tuple[Example, ...]
    num_classes: int

    @property
    def digest(self) -> str:
        """SHA-256 over keys, etags and masks: what a model was trained or judged on."""
        digest = hashlib.sha256()
        for example in self.examples:
            name = example.key.rpartition("/")[2]
            digest.update(f"{name}\0{sorted(example.masks.items())}\n".encode())
        return digest.hexdigest()

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """One example's image and bitmask, [H, W] each.

        Raises:
            SteelBatchError: The image cannot be read or decoded, or a mask leaves it.
        """
        example = self.examples[index]
        image_HW = decode_gray(self.lake.read(example.key))
        bitmask_HW = np.zeros(image_HW.shape, np.uint8)
        for class_id, rle in example.masks.items():
            try:
                mask_HW = decode_rle(rle, *image_HW.shape)
            except MaskError as error:
                raise LabelError(f"{example.key}, class {class_id}: {error}") from error
            bitmask_HW |= mask_HW << np.uint8(class_id - 1)
        return image_HW, bitmask_HW

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The examples at some indices."""
        return Dataset(
            lake=self.lake,
            examples=tuple(self.examples[i] for i in sorted(indices)),
            num_classes=self.num_classes,
        )


def open_dataset(lake: Lake, labels: bytes, *, source: str, num_classes: int) -> Dataset:
    """List the images and join them with their labels.

    Args:
        lake: Where the images lie; every image file below it is an example.
        labels: The csv.
        source: Its name, for messages.
        num_classes: Classes of the problem, 1 to 8.

    Raises:
        LabelError: Rows are malformed, repeated, or name images that are not there.
        ConfigError: There are no images, or two of one name.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"{num_classes} classes; an engine has 1 to {MAX_CLASSES}.")
    pattern = KeyPattern(None)
    images = {item.key: item for item in lake.list_objects() if pattern.match(item.key) is not None}
    names = {key.rpartition("/")[2]: key for key in images}
    if not images:
        raise ConfigError(f"there are no images below {lake.url}.")
    if len(names) != len(images):
        (name, count), *_ = Counter(key.rpartition("/")[2] for key in images).most_common(1)
        raise ConfigError(f"{count} images below {lake.url} are named {name}; labels name one.")
    header = probe(memoryview(lake.read(next(iter(images)))))
    masks = read_labels(
        labels, names=names, source=source, num_classes=num_classes,
        num_pixels=header.width * header.height,
    )  # fmt: skip
    examples = tuple(
        Example(key=key, etag=images[key].etag, masks=masks.get(key.rpartition("/")[2], {}))
        for key in sorted(images)
    )
    return Dataset(lake=lake, examples=examples, num_classes=num_classes)


def read_labels(
    labels: bytes, *, names: Mapping[str, str], source: str, num_classes: int, num_pixels: int
) -> dict[str, dict[int, str]]:
    """Read a label file strictly.

    Returns:
        Run-length pairs by image name and class; classes without pixels are left out.

    Raises:
        LabelError: It lists each row that is wrong and why, up to `MAX_PROBLEMS`.
    """
    reader = csv.reader(io.StringIO(labels.decode("utf-8-sig")))
    header = next(reader, [])
    split = {
        ("ImageId", "ClassId", "EncodedPixels"): False,
        ("ImageId_ClassId", "EncodedPixels"): True,
    }
    if tuple(header) not in split:
        raise LabelError(
            f"{source} begins with the columns {','.join(header) or '(nothing)'}; expected "
            "ImageId,ClassId,EncodedPixels or ImageId_ClassId,EncodedPixels."
        )
    joined = split[tuple(header)]
    masks: dict[str, dict[int, str]] = {}
    seen: dict[tuple[str, str], int] = {}
    problems = []
    for number, row in enumerate(reader, start=2):
        if not row:
            continue
        try:
            name, class_text, rle = _fields(row, joined)
            if (name, class_text) in seen:
                raise LabelError(f"repeats row {seen[name, class_text]}")
            seen[name, class_text] = number
            if name not in names:
                raise LabelError(f"names {name!r}, which is not among the images")
            if not class_text.isdigit() or not 1 <= int(class_text) <= num_classes:
                raise LabelError(f"has class {class_text!r}, of 1 to {num_classes}")
            runs = parse_rle(rle, num_pixels)
        except SteelBatchError as error:
            problems.append(f"row {number} {str(error).rstrip('.')}")
            continue
        if len(runs.start_px):
            masks.setdefault(name, {})[int(class_text)] = rle
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise LabelError(f"{source}: {'; '.join(problems[:MAX_PROBLEMS])}{more}.")
    return masks


def _fields(row: Sequence[str], joined: bool) -> tuple[str, str, str]:
    if len(row) != (2 if joined else 3):
        raise LabelError(f"has {len(row)} fields")
    if not joined:
        return row[0], row[1].strip(), row[2]
    name, _, class_text = row[0].rpartition("_")
    return name, class_text, row[1]


def split(dataset: Dataset, *, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a dataset in two, each combination of classes in proportion.

    Which side an image falls on depends on its name and the seed only, so images that are added
    later move no other.

    Returns:
        The greater part and the part of about `share`.
    """
    by_combination: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(dataset.examples):
        by_combination.setdefault(tuple(sorted(example.masks)), []).append(index)
    held = []
    for members in by_combination.values():
        order = sorted(members, key=lambda i: _rank(dataset.examples[i].key, seed))
        held += order[: round(len(order) * share)]
    kept = sorted(set(range(len(dataset.examples))) - set(held))
    return dataset.subset(kept), dataset.subset(held)


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{key.rpartition('/')[2]}".encode()).digest()
