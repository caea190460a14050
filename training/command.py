"""The command `train`, of `steel-batch train` and of `jobs/train.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from steel_batch import interrupt
from steel_batch.cli.output import (
    Table,
    bits_option,
    configure_logging,
    console,
    counted,
    duration,
    endpoint_option,
    links_option,
    naming,
    output_option,
    print_json,
    print_table,
    registry_option,
    single_writer_option,
)
from steel_batch.cli.values import PLACE
from steel_batch.errors import MachineError
from steel_batch.registry.evidence import class_figures, headline, too_few
from training.choices import DEVICES, FIGURES
from training.choices import PRECISIONS as TRAINING_PRECISIONS

if TYPE_CHECKING:
    from training.job import JobResult

VALIDATION: Final = {
    "validation_kaggle_dice": "Kaggle Dice",
    "validation_mean_iou": "mIoU",
    "validation_present_dice": "Dice where present",
}
"""The figures of the validation part, and their titles."""


@click.command()
@click.option(
    "--images",
    type=PLACE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of the images.",
)
@click.option(
    "--labels",
    default="train.csv",
    show_default=True,
    metavar="FILE",
    help="CSV of masks, with columns ImageId,ClassId,EncodedPixels or ImageId_ClassId,"
    "EncodedPixels: a file, an s3:// URL, or a name under --images. A bare file name is looked up "
    "under --images first; write ./name for the current folder. Images without a row have no "
    "defects.",
)
@registry_option
@click.option("--model", required=True, metavar="NAME", help="Name of the model.")
@click.option("--classes", metavar="A,B,…", help="Names of the classes, from class 1 on.")
@bits_option
@click.option(
    "--groups",
    metavar="FILE",
    help="CSV with columns ImageId,Group. Images of a group stay on the same side of the split.",
)
@click.option(
    "--validation-share",
    default=0.1,
    show_default=True,
    help="Share of the images held out to choose weights and thresholds.",
)
@click.option(
    "--test-share",
    default=0.1,
    show_default=True,
    help="Share of the images held out to evaluate the version, used for nothing else.",
)
@click.option(
    "--split-seed", default=0, show_default=True, help="Seed that selects the held-out images."
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with tables [recipe], [model] and [augment]; flags take precedence.",
)
@click.option(
    "--architecture", help="Architecture of segmentation-models-pytorch.  [default: Unet]"
)
@click.option(
    "--encoder",
    help="Encoder of segmentation-models-pytorch, tu-… for one of timm, or narrow16, narrow32, "
    "residual10.  [default: resnet18]",
)
@click.option("--encoder-weights", help="Pretrained weights of the encoder, such as imagenet.")
@click.option("--steps", "num_steps", type=int, help="Number of weight updates.  [default: 2000]")
@click.option(
    "--epochs",
    "num_epochs",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of training in epochs, instead of --steps. An epoch has one crop per image.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="NAME",
    help="Version in --store to distil: its predictions are learned in addition to the labels. "
    "<model>@<alias> or <model>-<12 hex digits>, with the same classes and size. Repeatable.",
)
@click.option(
    "--teacher-weight",
    type=float,
    help="Weight of the teachers' predictions in the loss, 0 to 1.  [default: 0.5]",
)
@click.option(
    "--temperature",
    type=float,
    help="Distillation temperature; divides the teachers' logits.  [default: 2]",
)
@click.option(
    "--unlabelled",
    type=PLACE,
    metavar="URL",
    help="Folder or s3:// prefix of more images, which the teachers label.",
)
@click.option("--batch-size", type=int, help="Crops per weight update.  [default: 16]")
@click.option("--learning-rate", type=float, help="Highest learning rate.  [default: 0.002]")
@click.option("--crop-width", type=int, help="Width of a crop in pixels.  [default: 512]")
@click.option("--seed", type=int, help="Seed of weights and crops.  [default: 0]")
@click.option(
    "--patience", type=int, help="Stop after N evaluations without a better one. Default: never."
)
@click.option("--watch", type=click.Choice(FIGURES), help="Figure that selects the best weights.")
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    help="Where to train; 'auto' is a GPU if there is one.  [default: auto]",
)
@click.option(
    "--precision",
    type=click.Choice(TRAINING_PRECISIONS),
    help="Precision of activations; on a CPU, fp32 or bf16.  [default: auto]",
)
@click.option(
    "--num-workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes on a Ray cluster, with one GPU each if it has GPUs; 0 trains in this process.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Ray cluster for --num-workers. Default: RAY_ADDRESS.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for temporary files and TensorBoard. Default: a temporary folder.",
)
@links_option
@endpoint_option
@single_writer_option
@click.option("--verbose", is_flag=True, help="Write a detailed log to stderr.")
@output_option
def train(
    images: str,
    labels: str,
    store: str,
    model: str,
    classes: str | None,
    bits: int | None,
    groups: str | None,
    validation_share: float,
    test_share: float,
    split_seed: int,
    config_path: Path | None,
    num_epochs: float | None,
    num_workers: int,
    ray_address: str | None,
    teachers: tuple[str, ...],
    unlabelled: str | None,
    work: Path | None,
    endpoint_url: str | None,
    follow_links: bool,
    unsafe_single_writer: bool,
    verbose: bool,
    output: str,
    **recipe: Any,
) -> None:
    """Train a model on labelled images and register it as a new version.

    The version is evaluated on held-out images, used neither for training nor for tuning. It is
    exported in FP32 and FP16, and in INT8 if that is as good. Run the same command again to resume
    an interrupted training from its last checkpoint.
    """
    configure_logging(verbose)
    if work is not None:
        with naming("--work", work):
            work.mkdir(parents=True, exist_ok=True)
    try:  # imported only now: loading OpenCV and PyTorch takes seconds
        with interrupt.nothing_held():
            from training.inputs import JobConfig, find_inputs
            from training.settings import read_recipe
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    config = read_recipe(config_path, recipe | {"teachers": teachers or None})
    job = JobConfig(
        images=images,
        labels=labels,
        store=store,
        model=model,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        bits=bits,
        groups=groups,
        unlabelled=unlabelled,
        validation_share=validation_share,
        test_share=test_share,
        split_seed=split_seed,
        num_epochs=num_epochs,
        num_workers=num_workers,
        ray_address=ray_address,
        work=work,
        endpoint_url=endpoint_url,
        follow_links=follow_links,
        unsafe_single_writer=unsafe_single_writer,
    )
    inputs = find_inputs(job, config)
    shown = _Shown()
    shown.stage("loading PyTorch")
    try:
        with interrupt.nothing_held():
            from training.job import run_job
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    result = run_job(job, config, inputs=inputs, on_step=shown.step, on_stage=shown.stage)
    if output == "json":
        print_json(
            {
                "engine": result.card.name,
                "store": result.store,
                "run": result.run,
                "report": result.report,
                "num_images": result.num_images,
                "precisions": [graph.precision for graph in result.card.graphs],
                "kaggle_dice": result.card.metrics["kaggle_dice"],
                "mean_iou": result.card.metrics["mean_iou"],
                "too_few": too_few(result.card.metrics, result.card.classes),
            }
        )
    else:
        shown.result(result)


def _not_installed(error: ModuleNotFoundError) -> MachineError:
    return MachineError(
        f"training needs {error.name}, which is not installed. Run `pip install "
        "'steel-batch[train]'`."
    )


class _Shown:
    """What is shown during a job and at its end; each sentence once."""

    def __init__(self) -> None:
        self._sentences: set[str] = set()

    def stage(self, text: str) -> None:
        """Show the step of the job, or a note on the data."""
        self._sentences.add(text)
        console.print(text, soft_wrap=True)

    def step(self, record: dict[str, Any]) -> None:
        """One report of the training loop."""
        console.print(describe_step(record), style="dim", soft_wrap=True)

    def result(self, result: JobResult) -> None:
        """The version, its figures and where to find it."""
        card = result.card
        training, validation, test = (counted(num, "image") for num in result.num_images)
        console.print(
            f"engine {card.name}: trained on {training}, thresholds from {validation}, evaluated "
            f"on {test}: {headline(card.metrics, card.classes)}",
            soft_wrap=True,
        )
        table = Table("class", "images", "Dice", "recall", "false alarms", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in class_figures(card.metrics, card.classes):
            table.add_row(row.name, row.images, row.present_dice, row.recall, row.false_alarm_rate)
        print_table(table, console)
        for note in card.notes:
            if note not in self._sentences:
                console.print(note, soft_wrap=True)
        console.print(f"report: {result.report}", soft_wrap=True)
        console.print(f"to score: --engine {card.name} --store {result.store}", soft_wrap=True)


def describe_step(record: Mapping[str, Any]) -> str:
    """Format a report of the training loop, or an evaluation on the validation part, as a line."""
    parts = [f"step {record['step']:,} of {record['num_steps']:,}"]
    if "loss" in record:
        parts += [f"loss {record['loss']:.4f}", f"learning rate {record['learning_rate']:.3g}"]
        parts.append(f"{record['images_per_second']:,.0f} images/s")
    if "best_step" in record:
        named = [f"{title} {record[key]:.4f}" for key, title in VALIDATION.items()]
        parts += [f"validation: {', '.join(named)}", f"best: step {record['best_step']:,}"]
    if record["seconds_left"]:
        parts.append(f"about {duration(record['seconds_left'])} of training left")
    return "  ".join(parts)
