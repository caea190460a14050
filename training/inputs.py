"""The configuration of a training job, and its input files, found before PyTorch is imported."""

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
from steel_batch.registry.card import MAX_CLASSES
from steel_batch.registry.versions import Engine, load_engine
from training.dataset import Dataset, check_shares, list_images, open_dataset
from training.recipe import TrainConfig

SOURCE: Final = (
    "images", "labels", "bits", "groups", "validation_share", "test_share", "split_seed",
)  # fmt: skip
"""Fields that decide on the parts of the data: versions that share them are comparable."""
NO_LABELS: Final = b"ImageId,ClassId,EncodedPixels\n"
NUM_SAMPLED: Final = 5
"""Images that are decoded to guess the size of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """The data and settings of a job."""

    images: str
    labels: str
    """A file, an s3:// object, or a key under `images`; a bare name is looked up there first."""
    store: str
    model: str
    classes: tuple[str, ...] = ()
    """Names; if empty, ``class_1`` and so on, as many as the labels have."""
    bits: int | None = None
    """Used bits of 16-bit samples; see `images.depth`."""
    groups: str | None = None
    """CSV of image groups; looked up like `labels`."""
    unlabelled: str | None = None
    """Folder or prefix of more images, which teachers label."""
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    num_epochs: float | None = None
    """Length in epochs, instead of the recipe's steps; an epoch has one crop per image."""
    num_workers: int = 0
    """Processes on a Ray cluster; 0 trains in this process, without Ray."""
    ray_address: str | None = None
    work: Path | None = None
    """Folder for temporary files and TensorBoard; None for a temporary folder."""
    endpoint_url: str | None = None
    follow_links: bool = False
    """See `ScoreConfig`."""
    unsafe_single_writer: bool = False
    """See `ScoreConfig`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A job's files: images are listed; labels and groups are read."""

    lake: Lake
    found: Mapping[str, LakeObject]
    """Images by name."""
    labels: bytes
    groups: bytes | None
    source: dict[str, Any]
    """Where the data comes from and how it is split, for the card."""
    unlabelled: tuple[Lake, Mapping[str, LakeObject]] | None = None
    """The lake of more images, and the images by name."""
    teachers: tuple[Engine, ...] = ()
    """The versions that are teachers; a repeated one counts once."""

    def likely_size(self) -> tuple[int, int] | None:
        """Return the common height and width of a few sampled images; None if they differ.

        Also None if one cannot be decoded: reading all images reports it later.
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
        """Open the unlabelled images, as images without defects, except those of `dataset`.

        A held-out image must not be learned from under another name.
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


def find_inputs(job: JobConfig, config: TrainConfig) -> Inputs:
    """Check a job and its recipe, find its files and teachers, and read labels and groups.

    Raises:
        ConfigError: Something that the user gave is wrong.
        EngineError: A teacher's card is damaged.
        LakeError: A store failed.
    """
    _check(job, config)
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
        teachers=_find_teachers(job, config),
    )


def _find_teachers(job: JobConfig, config: TrainConfig) -> tuple[Engine, ...]:
    store = Lake(job.store, endpoint_url=job.endpoint_url)
    engines = [load_engine(name, store=store) for name in config.teachers]
    return tuple({engine.card.name: engine for engine in engines}.values())


def _check(job: JobConfig, config: TrainConfig) -> None:
    """Refuse what can be refused without reading a file."""
    layout.check_name(job.model, what="model")
    if len(set(job.classes)) < len(job.classes) or not all(job.classes):
        raise ConfigError(
            f"--classes is {','.join(job.classes)!r}, expected a different name for each class."
        )
    if len(job.classes) > MAX_CLASSES:
        raise ConfigError(
            f"--classes has {len(job.classes)} names, expected no more than {MAX_CLASSES}."
        )
    if job.classes:
        config.check_classes(len(job.classes))
    config.check_processes(max(1, job.num_workers))
    if job.unlabelled is not None and not config.teachers:
        raise ConfigError(
            f"--unlabelled {job.unlabelled} needs a teacher to label the images: add --teacher."
        )
    check_shares((job.validation_share, job.test_share))
    if job.num_epochs is not None and not 0 < job.num_epochs < math.inf:
        raise ConfigError(f"--epochs is {job.num_epochs}, expected a finite number above 0.")
    if job.ray_address is not None and job.num_workers == 0:
        raise ConfigError(
            f"--ray-address {job.ray_address} needs --num-workers: add it with the number of "
            "processes, or remove --ray-address to train in this process."
        )


def _read(name: str, images: Lake, flag: str) -> tuple[bytes, str]:
    """Read a file that the user named, and return its address."""
    if "://" in name:
        root, _, key = name.rpartition("/")
        return Lake(root, endpoint_url=images.endpoint_url).read(key), name
    path = Path(name)
    here = path.read_bytes() if path.is_file() else None
    if here is not None and name != path.name:  # a path with a folder is unambiguous
        return here, str(path.absolute())
    is_key = not {"", ".", ".."}.intersection(name.split("/"))
    below = images.read(name) if is_key and images.stat(name) is not None else None
    if here is not None and below is not None and here != below:
        raise ConfigError(
            f"{flag} {name!r} is ambiguous: {images.uri(name)} and {path.absolute()} both exist "
            f"and differ. Give the full address of the first, or ./{name} for the second."
        )
    if below is not None:
        return below, images.uri(name)
    if here is not None:
        return here, str(path.absolute())
    if next(images.list_objects(), None) is None:
        raise ConfigError(
            f"there are no files under --images {images.url}: expected an existing folder or s3:// "
            "prefix with images. Check --images."
        )
    raise ConfigError(
        f"{flag} {name!r} is neither a file nor found under {images.url}: give a path, an "
        "s3:// URL, or the name of a file in the folder of the images."
    )
