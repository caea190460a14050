"""The training job: labelled images in, a registered version out. The same job again continues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steel_batch import layout
from steel_batch.cluster.join import joined_cluster
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.lake.probe import writable
from steel_batch.registry.card import Card
from training.checkpoint import recipe_digest
from training.dataset import Dataset, check_shares, open_dataset, split
from training.distributed import train_on_cluster
from training.export import export_graph
from training.journal import OnStep
from training.model import ContractGraph, Segmenter
from training.recipe import TrainConfig
from training.register import Parts, make_version, register_product
from training.report import render_report
from training.stored import train_stored
from training.trackers import open_trackers

SOURCE: Final = (
    "images",
    "labels",
    "bits",
    "groups",
    "validation_share",
    "test_share",
    "split_seed",
)
"""What of a job decides on the parts of its data: versions with the same are comparable."""


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
    unsafe_single_writer: bool = False
    """As of `ScoreConfig`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job made."""

    card: Card
    run: str
    store: str
    num_images: tuple[int, int, int]
    """Of training, validation and test."""


def run_job(
    job: JobConfig,
    config: TrainConfig,
    *,
    on_step: OnStep = lambda _: None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> JobResult:
    """Open and split the data, train, judge, export and register.

    A run's name is made of everything that its weights depend on, and its checkpoints lie in the
    store under that name: the same job continues one that was interrupted, and one that is done
    gives the version that it gave.

    Args:
        job: What to work on.
        config: The recipe.
        on_step: Called with each report of the training loop.
        on_stage: Called with what is being done.

    Raises:
        ConfigError: Something that the user gave is wrong; nothing was trained.
        EngineError: The network cannot be exported.
        ClusterError: Ray's workers keep dying.
        LakeError: The store refused.
    """
    _check(job)
    Segmenter(config.model, max(1, len(job.classes)))  # what cannot be built ends here
    store = writable(
        Lake(job.store, endpoint_url=job.endpoint_url), single_writer=job.unsafe_single_writer
    )
    on_stage("reading images and labels")
    parts, source = _open_parts(job)
    config = _with_steps(config, job, parts.training)
    run = f"{job.model}-{_identity(job, config, parts)}"
    classes = job.classes or tuple(f"class_{c + 1}" for c in range(parts.training.num_classes))
    _try_export(config, parts.training)
    with _folder(job.work) as place:
        folder = Path(place) / run
        settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        for gap in parts.gaps(classes):
            on_stage(gap)
        on_stage(f"training {run}")
        with open_trackers(folder, store, run, settings) as track:

            def report(record: dict[str, Any]) -> None:
                track(record)
                on_step(record)

            network = _train(job, parts, config, store, run, folder, report)
        product = make_version(
            network,
            parts,
            config,
            model=job.model,
            classes=classes,
            source=source,
            on_stage=on_stage,
        )
        on_stage("registering")
        journal = (folder / "metrics.jsonl").read_text().splitlines()
        page = render_report(product, parts.test, [json.loads(line) for line in journal])
        card = register_product(store, product, page)
    num_images = (len(parts.training), len(parts.validation), len(parts.test))
    return JobResult(card=card, run=run, store=store.url, num_images=num_images)


def _check(job: JobConfig) -> None:
    """Refuse what needs no image to be known as wrong."""
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


def _try_export(config: TrainConfig, training: Dataset) -> None:
    """Export the network before it is trained: which weights it has makes no difference."""
    num_classes = training.num_classes
    graph = ContractGraph(Segmenter(config.model, num_classes).eval(), (0.5,) * num_classes)
    export_graph(graph, *training.size, precision="fp32")


def _train(
    job: JobConfig,
    parts: Parts,
    config: TrainConfig,
    store: Lake,
    run: str,
    folder: Path,
    report: OnStep,
) -> Segmenter:
    data = (parts.training, parts.validation, config, store, run, folder)
    if job.num_workers == 0:
        return train_stored(*data, report)
    with joined_cluster(job.ray_address):
        return train_on_cluster(*data, num_workers=job.num_workers, on_step=report)


def _open_parts(job: JobConfig) -> tuple[Parts, dict[str, Any]]:
    """The parts, and where they came from and how they were cut, for the card."""
    lake = Lake(job.images, endpoint_url=job.endpoint_url)
    source = {name: getattr(job, name) for name in SOURCE}
    labels, source["labels"] = _read(job.labels, lake, "--labels")
    groups = None
    if job.groups is not None:
        groups, source["groups"] = _read(job.groups, lake, "--groups")
    dataset = open_dataset(
        lake,
        labels,
        source=source["labels"],
        num_classes=len(job.classes) or None,
        bits=job.bits,
        groups=groups,
        groups_source=source["groups"] or "",
    )
    shares = (job.validation_share, job.test_share)
    training, validation, test = split(dataset, shares=shares, seed=job.split_seed)
    parts = {"training": training, "validation": validation, "test": test}
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise ConfigError(
            f"{len(dataset)} images leave none for {' and '.join(empty)}: give more images, "
            "smaller groups where --groups makes some, or larger --validation-share and "
            "--test-share."
        )
    return Parts(training=training, validation=validation, test=test), source


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


def _with_steps(config: TrainConfig, job: JobConfig, training: Dataset) -> TrainConfig:
    if job.num_epochs is None:
        return config
    num_steps = max(1, round(job.num_epochs * len(training) / config.batch_size))
    return dataclasses.replace(config, num_steps=num_steps)


def _identity(job: JobConfig, config: TrainConfig, parts: Parts) -> str:
    inputs: Sequence[str] = (
        recipe_digest(config),
        parts.training.digest,
        parts.validation.digest,
        str(job.num_workers),  # batches are normalised within each
        str(parts.training.num_classes),  # of which some may be on no image yet
    )
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:12]


def _folder(work: Path | None) -> AbstractContextManager[Any]:
    return tempfile.TemporaryDirectory() if work is None else nullcontext(work)
