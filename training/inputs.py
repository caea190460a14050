"""What a training job is told, and the files that it names, found before PyTorch is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steel_batch import layout
from steel_batch.config import LIMITS
from steel_batch.errors import ConfigError, ImageError
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake, LakeObject
from training.dataset import Dataset, check_shares, list_images, open_dataset

SOURCE: Final = (
    "images", "labels", "bits", "groups", "validation_share", "test_share", "split_seed",
)  # fmt: skip
"""What of a job decides on the parts of its data: versions with the same are comparable."""
NO_LABELS: Final = b"ImageId,ClassId,EncodedPixels\n"
NUM_SAMPLED: Final = 5
"""Images that are decoded to guess the size of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """What a job works on."""

    images: str
    labels: str
    """A file, an s3:// object, or a key below `images`; a bare name is looked for there first."""
    store: str
    model: str
    classes: tuple[str, ...] = ()
    """Names; where there are none, ``class_1`` and so on, as many as the labels have."""
    bits: int | None = None
    """Of samples of 16 bits; see `images.depth`."""
    groups: str | None = None
    """Csv of which images belong together; found as `labels` is."""
    unlabelled: str | None = None
    """Folder or prefix of more images, which teachers label."""
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    num_epochs: float | None = None
    """In place of the recipe's steps: as many crops as this many times the training images."""
    num_workers: int = 0
    """Processes of a Ray cluster; 0 trains in this one, without Ray."""
    ray_address: str | None = None
    work: Path | None = None
    """Folder for scratch files, TensorBoard's among them; a temporary one where it is None."""
    endpoint_url: str | None = None
    follow_links: bool = False
    """As of `ScoreConfig`."""
    unsafe_single_writer: bool = False
    """As of `ScoreConfig`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A job's files: images are listed, labels and groups are read."""

    lake: Lake
    found: Mapping[str, LakeObject]
    """Images by name."""
    labels: bytes
    groups: bytes | None
    source: dict[str, Any]
    """Where the data comes from and how it is cut, for the card."""
    unlabelled: tuple[Lake, Mapping[str, LakeObject]] | None = None
    """Where more images lie, and which by name."""

    def likely_size(self) -> tuple[int, int] | None:
        """Height and width that a few images from all over have; None where they differ.

        Also None where one cannot be decoded: reading all of them names it, and every other one.
        """
        names = sorted(self.found)
        sizes = set()
        for name in names[:: -(-len(names) // NUM_SAMPLED)]:
            try:
                content = self.lake.read(self.found[name].key, max_bytes=LIMITS.object_bytes)
                sizes.add(decode_gray(content, bits=self.source["bits"]).shape)
            except ImageError:
                return None
        return sizes.pop() if len(sizes) == 1 else None

    def open_dataset(self, num_classes: int | None) -> Dataset:
        """Every image with its labels; see `training.dataset.open_dataset`."""
        return open_dataset(
            self.lake,
            self.labels,
            source=self.source["labels"],
            found=self.found,
            num_classes=num_classes,
            bits=self.source["bits"],
            groups=self.groups,
            groups_source=self.source["groups"] or "",
        )

    def open_unlabelled(self, dataset: Dataset) -> Dataset | None:
        """The images that nobody labelled, as clean ones; without those of `dataset`.

        One that is held out must not be learned from under another name.
        """
        if self.unlabelled is None:
            return None
        lake, found = self.unlabelled
        opened = open_dataset(
            lake,
            NO_LABELS,
            source="--unlabelled",
            found=found,
            num_classes=dataset.num_classes,
            bits=self.source["bits"],
        )
        known = {example.sha256 for example in dataset.examples}
        return opened.with_examples([e for e in opened.examples if e.sha256 not in known])


def find_inputs(job: JobConfig) -> Inputs:
    """Check what a job is told, find its files, and read those of labels and groups.

    Raises:
        ConfigError: Something that the user gave is wrong.
        LakeError: A store refused.
    """
    _check(job)
    lake = Lake(job.images, endpoint_url=job.endpoint_url, follow_links=job.follow_links)
    source = {name: getattr(job, name) for name in SOURCE}
    labels, source["labels"] = _read(job.labels, lake, "--labels")
    groups = None
    if job.groups is not None:
        groups, source["groups"] = _read(job.groups, lake, "--groups")
    unlabelled = None
    if job.unlabelled is not None:
        more = Lake(job.unlabelled, endpoint_url=job.endpoint_url)
        unlabelled = (more, list_images(more, flag="--unlabelled"))
        source["unlabelled"] = job.unlabelled
    return Inputs(
        lake=lake,
        found=list_images(lake),
        labels=labels,
        groups=groups,
        source=source,
        unlabelled=unlabelled,
    )


def _check(job: JobConfig) -> None:
    """Refuse what needs no file to be known as wrong."""
    layout.check_name(job.model, what="model")
    if len(set(job.classes)) < len(job.classes) or not all(job.classes):
        raise ConfigError(
            f"--classes {','.join(job.classes)!r}: each class needs a name of its own."
        )
    check_shares((job.validation_share, job.test_share))
    if job.num_epochs is not None and not 0 < job.num_epochs < math.inf:
        raise ConfigError(f"--epochs is {job.num_epochs}, expected a finite number above 0.")
    if job.ray_address is not None and job.num_workers == 0:
        raise ConfigError(
            f"--ray-address {job.ray_address} is given, but no --num-workers: give how many "
            "processes of that cluster are to train, or leave the address out to train here."
        )


def _read(name: str, images: Lake, flag: str) -> tuple[bytes, str]:
    """A file that the user named, and its address."""
    if "://" in name:
        root, _, key = name.rpartition("/")
        return Lake(root, endpoint_url=images.endpoint_url).read(key), name
    path = Path(name)
    here = path.read_bytes() if path.is_file() else None
    if here is not None and name != path.name:  # it says where
        return here, str(path.absolute())
    is_key = not {"", ".", ".."}.intersection(name.split("/"))
    below = images.read(name) if is_key and images.stat(name) is not None else None
    if here is not None and below is not None and here != below:
        raise ConfigError(
            f"{flag} {name!r} may mean {images.uri(name)} or {path.absolute()}, which differ. Give "
            f"the whole address of the first, or ./{name} for the second."
        )
    if below is not None:
        return below, images.uri(name)
    if here is not None:
        return here, str(path.absolute())
    raise ConfigError(
        f"{flag} {name!r} is neither a file nor below {images.url}; give a path, an s3:// address "
        "or the name of a file beside the images."
    )
