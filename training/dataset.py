"""Labelled images: a folder or prefix of images and a Severstal `train.csv`.

Images without a row in the label file have no defects; they are found by listing. Images are
decoded by the code that scoring uses. Shape suffixes: H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.config import LIMITS
from steel_batch.errors import (
    ChangedObjectError,
    ConfigError,
    ImageError,
    InputError,
    LakeError,
)
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake, LakeObject, ReadRequest
from steel_batch.masks.rle import decode_rle
from steel_batch.registry.card import MAX_CLASSES
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.stray import by_product_reason
from training.labels import MAX_PROBLEMS, LabelError, Masks, read_groups, read_labels

READ_IMAGES: Final = 64
"""Images that are read at once while the dataset is opened."""
MOST_DECODERS: Final = 16
"""Threads that decode at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image and its masks, undecoded."""

    key: str
    sha256: str
    """SHA-256 of the file."""
    height: int
    width: int
    masks: Masks
    group: str
    """Images of one group are always in the same part of a split."""

    @property
    def name(self) -> str:
        """The file's name, which the label file uses."""
        return self.key.rpartition("/")[2]

    def with_masks(self, masks: Masks) -> Example:
        """Return the same image with other masks."""
        return dataclasses.replace(self, masks=masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples in the order of their names, independent of where they are stored.

    Picklable; images are read on demand.
    """

    lake: Lake
    examples: tuple[Example, ...]
    num_classes: int
    bits: int | None = None
    """Used bits of 16-bit samples; see `images.depth`."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def digest(self) -> str:
        """SHA-256 over names, content, bits and masks: the data of a training or an evaluation.

        It does not depend on where the images are stored.
        """
        digest = hashlib.sha256()
        if self.bits is not None:
            digest.update(f"bits {self.bits}\n".encode())
        for example in self.examples:
            masks = sorted(example.masks.items())
            digest.update(f"{example.name}\0{example.sha256}\0{masks}\n".encode())
        return digest.hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """The most frequent height and width."""
        return Counter((e.height, e.width) for e in self.examples).most_common(1)[0][0]

    @property
    def has_one_size(self) -> bool:
        """Whether all images have the same size."""
        return len({(e.height, e.width) for e in self.examples}) <= 1

    @property
    def num_masks(self) -> tuple[int, ...]:
        """Number of images with each class."""
        counts = Counter(class_id for e in self.examples for class_id in e.masks)
        return tuple(counts[c + 1] for c in range(self.num_classes))

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return one example's image and bitmask, [H, W] each, at the image's own size.

        Raises:
            ChangedObjectError: The file has changed since the dataset was opened.
            SteelBatchError: The image cannot be read or decoded.
        """
        example = self.examples[index]
        content = self.lake.read(example.key, max_bytes=LIMITS.object_bytes)
        if hashlib.sha256(content).hexdigest() != example.sha256:
            raise ChangedObjectError(
                f"{self.lake.uri(example.key)} has changed since the images were first read. Run "
                "the same command again to use the new file."
            )
        image_HW = decode_gray(content, bits=self.bits)
        bitmask_HW = np.zeros(image_HW.shape, np.uint8)
        for class_id, rle in example.masks.items():
            bitmask_HW |= decode_rle(rle, *image_HW.shape) << np.uint8(class_id - 1)
        return image_HW, bitmask_HW

    def subset(self, indices: Sequence[int]) -> Dataset:
        """Return the examples at some indices."""
        return self.with_examples([self.examples[i] for i in sorted(indices)])

    def with_examples(self, examples: Sequence[Example]) -> Dataset:
        """Return a dataset of other examples of the same lake and classes."""
        return dataclasses.replace(self, examples=tuple(examples))


def open_dataset(
    lake: Lake,
    labels: bytes,
    *,
    source: str,
    found: Mapping[str, LakeObject] | None = None,
    num_classes: int | None = None,
    bits: int | None = None,
    groups: bytes | None = None,
    groups_source: str = "--groups",
) -> Dataset:
    """List the images, decode each once, and match them with their labels.

    Images that cannot be decoded are found here, not hours later. Files with the same content
    belong to the same group.

    Args:
        lake: The images: every image file in it is an example.
        labels: The CSV.
        source: The CSV's name, for messages.
        found: The result of `list_images`; None to list here.
        num_classes: Number of classes, 1 to 8; None for the highest class in the labels.
        bits: Used bits of 16-bit samples; see `images.depth`.
        groups: A CSV ``ImageId,Group``; None makes each content a group of its own.
        groups_source: Its name, for messages.

    Raises:
        LabelError: Rows are malformed, repeated, or name missing images; or files with the same
            content are in several groups.
        ConfigError: There are no images, two have the same name, or some cannot be decoded.
        LakeError: The store failed.
    """
    if num_classes is not None and not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"found {num_classes} classes, expected 1 to {MAX_CLASSES}.")
    found = list_images(lake) if found is None else found
    probed = _probe_images(lake, found, bits)
    sizes = {name: size for name, (size, _) in probed.items()}
    masks = read_labels(labels, source=source, sizes=sizes, num_classes=num_classes)
    if num_classes is None:
        num_classes = max((c for by_class in masks.values() for c in by_class), default=0)
        if not num_classes:
            raise InputError(f"{source} contains no defect, so there is nothing to learn.")
    digests = {name: digest for name, (_, digest) in probed.items()}
    grouped = _first_names(digests)
    if groups is not None:
        copies = grouped
        grouped = read_groups(groups, source=groups_source, names=sorted(found))
        _refuse_split_copies(copies, grouped, groups_source)
    examples = [
        Example(
            key=item.key,
            sha256=digests[name],
            height=sizes[name][0],
            width=sizes[name][1],
            masks=masks.get(name, {}),
            group=grouped[name],
        )
        for name, item in found.items()
    ]
    examples.sort(key=lambda example: example.name)
    return Dataset(lake=lake, examples=tuple(examples), num_classes=num_classes, bits=bits)


def list_images(lake: Lake, *, flag: str = "--images") -> dict[str, LakeObject]:
    """Return the image files of a lake, by name; messages name `flag`.

    Raises:
        ConfigError: There are none, or two have the same name.
        LakeError: The store failed.
    """
    pattern = KeyPattern(None)
    found: dict[str, LakeObject] = {}
    for item in lake.list_objects():
        if pattern.match(item.key) is None or by_product_reason(item.key) is not None:
            continue
        name = item.key.rpartition("/")[2]
        if name in found:
            raise InputError(
                f"{lake.uri(found[name].key)} and {lake.uri(item.key)} have the same name. Labels "
                f"identify images by name, so each name under {flag} must be unique."
            )
        found[name] = item
    if not found:
        raise InputError(
            f"there are no images under {lake.url}: expected files such as .jpg or .png. Check "
            f"{flag}."
        )
    return found


def _probe_images(
    lake: Lake, found: Mapping[str, LakeObject], bits: int | None
) -> dict[str, tuple[tuple[int, int], str]]:
    """Return height, width and SHA-256 of each image, in the order of their names."""
    names = sorted(found)
    probed, problems = {}, []
    with ThreadPoolExecutor(min(MOST_DECODERS, os.cpu_count() or 1), "decode") as threads:
        for start in range(0, len(names), READ_IMAGES):
            chunk = names[start : start + READ_IMAGES]
            contents = lake.read_many(
                [ReadRequest(key=found[name].key, max_bytes=LIMITS.object_bytes) for name in chunk]
            )
            seen = threads.map(partial(_probe_image, bits=bits), contents)
            for name, result in zip(chunk, seen, strict=True):
                if isinstance(result, ImageError):
                    problems.append(f"{name}: {str(result).rstrip('.')}")
                else:
                    probed[name] = result
    if problems:
        shown = "; ".join(problems[:MAX_PROBLEMS])
        raise InputError(
            f"{len(problems)} of {len(names)} images under {lake.url} cannot be read: {shown}. "
            "Replace them, or remove them and their rows."
        )
    return probed


def _probe_image(
    content: bytes | LakeError, *, bits: int | None
) -> tuple[tuple[int, int], str] | ImageError:
    if not isinstance(content, bytes):
        raise content
    try:
        height, width = decode_gray(content, bits=bits).shape
    except ImageError as error:
        return error
    return (height, width), hashlib.sha256(content).hexdigest()


def _first_names(digests: Mapping[str, str]) -> dict[str, str]:
    """Return for each image the first image with the same content, usually the image itself."""
    first: dict[str, str] = {}
    return {name: first.setdefault(digest, name) for name, digest in digests.items()}


def _refuse_split_copies(
    copies: Mapping[str, str], grouped: Mapping[str, str], source: str
) -> None:
    problems = [
        f"{name} ({grouped[name]}) and {first} ({grouped[first]})"
        for name, first in copies.items()
        if grouped[name] != grouped[first]
    ]
    if problems:
        more = f" and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise LabelError(
            f"{source} assigns files with the same content to different groups: "
            f"{'; '.join(problems[:MAX_PROBLEMS])}{more}. Assign copies to the same group."
        )


def check_shares(shares: Sequence[float]) -> None:
    """Refuse held-out shares that leave no images.

    Raises:
        ConfigError: A share is negative or not a number, or their sum is 1 or more.
    """
    if not all(share >= 0 for share in shares) or sum(shares) >= 1:
        raise ConfigError(f"held-out shares are {list(shares)}, expected a sum below 1.")


def split(dataset: Dataset, *, shares: Sequence[float], seed: int) -> list[Dataset]:
    """Hold out parts of a dataset, with each combination of classes in proportion.

    Groups stay whole. Images that form a group of their own are dealt by share within each
    combination of classes. Where a share is not a whole number, it is rounded up for the parts
    that lack most over all combinations so far, so many small combinations add no error. Then each
    larger group goes to the part that lacks most. The same images, groups and seed give the same
    parts, wherever the images are stored.

    Args:
        dataset: The dataset to split.
        shares: The share of each held-out part, 0 to 1, with a sum below 1.
        seed: Seed of the order in which groups of a combination are dealt.

    Returns:
        The remainder, then one part per share.

    Raises:
        ConfigError: The shares leave no images.
    """
    check_shares(shares)
    members: dict[str, list[int]] = {}
    for index, example in enumerate(dataset.examples):
        members.setdefault(example.group, []).append(index)
    strata: dict[tuple[int, ...], list[str]] = {}
    for group, indices in members.items():
        combination = sorted({c for i in indices for c in dataset.examples[i].masks})
        strata.setdefault(tuple(combination), []).append(group)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    part_shares = np.array([1 - sum(shares), *shares])
    lack = np.zeros(len(parts))  # carried from one combination to the next
    larger: list[str] = []
    for _, groups in sorted(strata.items()):
        ranked = sorted(groups, key=lambda group: _rank(group, seed))
        single = [group for group in ranked if len(members[group]) == 1]
        larger += [group for group in ranked if len(members[group]) > 1]
        lack += part_shares * len(single)
        counts = np.floor(part_shares * len(single)).astype(int)
        num_left = len(single) - counts.sum()
        counts[np.argsort(counts - lack, kind="stable")[:num_left]] += 1
        lack -= counts
        bounds = np.cumsum(counts[1:])
        for place, group in enumerate(single):
            part = int(np.searchsorted(bounds, place, side="right"))
            parts[(part + 1) % len(parts)] += members[group]
    for group in larger:
        num_images = np.array([len(part) for part in parts])
        lack = part_shares * (num_images.sum() + len(members[group])) - num_images
        parts[int(lack.argmax())] += members[group]
    return [dataset.subset(part) for part in parts]


def _rank(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
