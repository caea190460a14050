"""The training job: labelled images in, a registered version out. It resumes if run again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steel_batch import layout
from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake
from steel_batch.lake.probe import prove_writable, writable
from steel_batch.registry.card import Card
from steel_batch.registry.versions import Engine
from training.checkpoint import recipe_digest
from training.dataset import Dataset, split
from training.export import export_graph
from training.inputs import Inputs, JobConfig, find_inputs
from training.journal import OnStep, read_journal
from training.lessons import Lessons
from training.model import ContractGraph, Segmenter, check_sizes
from training.pace import Pace
from training.recipe import TrainConfig
from training.register import Parts, make_version, register_product
from training.report import render_report
from training.state import find_place
from training.stored import train_stored
from training.teacher import Teacher, check_teacher, teach
from training.trackers import open_trackers

REPORTED_IMAGES: Final = 1000
"""Progress of the teachers is reported after this many images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The result of a job."""

    card: Card
    run: str
    store: str
    report: str
    """The URL of the version's report page."""
    num_images: tuple[int, int, int]
    """Number of training, validation and test images."""


def run_job(
    job: JobConfig,
    config: TrainConfig,
    *,
    inputs: Inputs | None = None,
    on_step: OnStep = lambda _: None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> JobResult:
    """Open and split the data, train, evaluate, export and register.

    A run's name is derived from everything that its weights depend on, and its checkpoints are
    stored under that name. So the same job resumes an interrupted run, and returns the existing
    version of a finished one.

    Args:
        job: The data and settings.
        config: The recipe.
        inputs: The result of `find_inputs` for this job and recipe; None to find them here.
        on_step: Called with each report of the training loop, with ``num_steps`` and
            ``seconds_left`` added; see `training.pace.Pace`.
        on_stage: Called with the name of the step of the job.

    Raises:
        ConfigError: Something that the user gave is wrong; nothing was trained.
        EngineError: The network cannot be exported.
        ClusterError: Ray's workers died on every attempt.
        LakeError: The store failed.
    """
    inputs = inputs or find_inputs(job, config)
    if job.num_workers == 0:
        find_place(config)
    size = inputs.likely_size()
    engines = inputs.teachers
    for engine in engines:
        check_teacher(engine.card, job.classes or None, size)
    config = dataclasses.replace(config, teachers=tuple(e.card.name for e in engines))
    _check_network(config, max(1, len(job.classes)), size)
    lake = Lake(job.store, endpoint_url=job.endpoint_url)
    store = writable(lake, single_writer=job.unsafe_single_writer)
    prove_writable(store)
    on_stage("reading images and labels")
    parts = _open_parts(inputs, job)
    if parts.training.size != size:
        _check_network(config, parts.training.num_classes, parts.training.size)
    config = _with_steps(config, job, parts.training)
    classes = job.classes or tuple(f"class_{c + 1}" for c in range(parts.training.num_classes))
    for engine in engines:
        check_teacher(engine.card, classes, parts.training.size)
    unlabelled = inputs.open_unlabelled(parts.joined)
    for note in _notes_of_teaching(engines, unlabelled, inputs, parts):
        on_stage(note)
    run = layout.training_run(job.model, _identity(job, config, parts, unlabelled))
    with _folder(job.work) as place:
        folder = Path(place) / run
        settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        for gap in parts.gaps(classes):
            on_stage(gap)
        on_stage(_beginning(store, run, config))
        pace = Pace(config)
        with open_trackers(folder, store, run, settings) as track:

            def report(record: dict[str, Any]) -> None:
                track(record)
                on_step(record | pace.of(record))

            lessons = _teach(engines, parts.training, unlabelled, config, on_stage)
            network = _train(job, parts, config, store, run, folder, report, lessons)
        product = make_version(
            network,
            parts,
            config,
            model=job.model,
            classes=classes,
            source=inputs.source | _of_unlabelled(unlabelled),
            on_stage=on_stage,
        )
        on_stage("registering")
        page = render_report(product, parts.test, read_journal(folder / "metrics.jsonl"))
        card = register_product(store, product, page)
    return JobResult(
        card=card,
        run=run,
        store=store.url,
        report=store.uri(layout.report_file(card.model, card.version)),
        num_images=(len(parts.training), len(parts.validation), len(parts.test)),
    )


def _beginning(store: Lake, run: str, config: TrainConfig) -> str:
    """Describe the training that starts now, and where to follow it."""
    is_begun = store.stat(layout.training_file(run, "checkpoint.pt")) is not None
    return (
        f"{'resuming' if is_begun else 'training'} {run}: {config.num_steps:,} steps; checkpoint "
        f"and metrics.jsonl in {store.uri(layout.training_file(run, '')).rstrip('/')}"
    )


def _check_network(config: TrainConfig, num_classes: int, size: tuple[int, int] | None) -> None:
    """Build the network with any weights, run it on a crop, and export it.

    Args:
        config: The recipe.
        num_classes: Number of classes of the logits.
        size: Height and width of the images; None if it is not known yet.

    Raises:
        ConfigError: It cannot be built, or does not accept the crops or the images.
        EngineError: It cannot be exported.
    """
    segmenter = Segmenter(config.model, num_classes)
    if size is not None:
        crop = (size[0], min(size[1], config.augment.crop_width))
        check_sizes(segmenter, (crop, size))
        export_graph(ContractGraph(segmenter, (0.5,) * num_classes), *size, precision="fp32")


def _teach(
    engines: Sequence[Engine],
    training: Dataset,
    unlabelled: Dataset | None,
    config: TrainConfig,
    on_stage: Callable[[str], None],
) -> Lessons | None:
    """Return the teachers' predictions for the training images; None without teachers."""
    if not engines:
        return None
    num = len(training) + (0 if unlabelled is None else len(unlabelled))
    on_stage(f"running {' and '.join(config.teachers)} on {num:,} images")

    def count(num_done: int) -> None:
        if num_done % REPORTED_IMAGES == 0 and num_done < num:
            on_stage(f"teachers have labelled {num_done:,} of {num:,} images")

    teachers = [Teacher(engine) for engine in engines]
    return teach(teachers, training, unlabelled, temperature=config.temperature, on_images=count)


def _notes_of_teaching(
    engines: Sequence[Engine], unlabelled: Dataset | None, inputs: Inputs, parts: Parts
) -> Iterator[str]:
    """Yield warnings about the teachers and their images.

    Raises:
        InputError: All unlabelled images are duplicates.
    """
    for engine in engines:
        if engine.card.metrics.get("data_digest") != parts.test.digest:
            yield (
                f"{engine.card.name} was evaluated on other images than those held out here; it "
                "may have been trained on some of them."
            )
    if unlabelled is not None and inputs.unlabelled is not None:
        lake, found = inputs.unlabelled
        if not len(unlabelled):
            raise InputError(
                f"all {len(found):,} images under --unlabelled {lake.url} are also in --images: "
                "give other images, or remove --unlabelled."
            )
        if len(unlabelled) < len(found):
            num = len(found) - len(unlabelled)
            yield f"{num:,} unlabelled images are skipped: they are also in --images."


def _of_unlabelled(unlabelled: Dataset | None) -> dict[str, Any]:
    if unlabelled is None:
        return {}
    return {"unlabelled_digest": unlabelled.digest, "num_unlabelled_images": len(unlabelled)}


def _train(
    job: JobConfig,
    parts: Parts,
    config: TrainConfig,
    store: Lake,
    run: str,
    folder: Path,
    report: OnStep,
    lessons: Lessons | None,
) -> Segmenter:
    data = (parts.training, parts.validation, config, store, run, folder)
    if job.num_workers == 0:
        return train_stored(*data, report, lessons=lessons)
    from steel_batch.cluster.join import joined_cluster  # imports Ray, which takes a second
    from training.distributed import train_on_cluster

    with joined_cluster(job.ray_address):
        return train_on_cluster(*data, num_workers=job.num_workers, on_step=report, lessons=lessons)


def _open_parts(inputs: Inputs, job: JobConfig) -> Parts:
    dataset = inputs.open_dataset(len(job.classes) or None)
    shares = (job.validation_share, job.test_share)
    training, validation, test = split(dataset, shares=shares, seed=job.split_seed)
    parts = {"training": training, "validation": validation, "test": test}
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise ConfigError(
            f"{len(dataset)} images leave none for {' and '.join(empty)}: add images, use smaller "
            "groups in --groups, or increase --validation-share and --test-share."
        )
    return Parts(training=training, validation=validation, test=test)


def _with_steps(config: TrainConfig, job: JobConfig, training: Dataset) -> TrainConfig:
    if job.num_epochs is None:
        return config
    num_steps = max(1, round(job.num_epochs * len(training) / config.batch_size))
    return dataclasses.replace(config, num_steps=num_steps)


def _identity(job: JobConfig, config: TrainConfig, parts: Parts, unlabelled: Dataset | None) -> str:
    inputs: Sequence[str] = (
        recipe_digest(config),
        parts.training.digest,
        parts.validation.digest,
        str(job.num_workers),  # batch normalisation is per worker
        str(parts.training.num_classes),  # some classes may be on no image yet
        *([] if unlabelled is None else [unlabelled.digest]),
    )
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()


def _folder(work: Path | None) -> AbstractContextManager[Any]:
    return tempfile.TemporaryDirectory() if work is None else nullcontext(work)
