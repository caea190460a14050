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
"""What is reported of the validation part, and what it is called."""


@click.command()
@click.option(
    "--images",
    type=PLACE,
    required=True,
    metavar="URL",
    help="Folder or s3:// prefix of images.",
)
@click.option(
    "--labels",
    default="train.csv",
    show_default=True,
    metavar="FILE",
    help="Csv of masks: ImageId,ClassId,EncodedPixels or ImageId_ClassId,EncodedPixels; a file, an "
    "s3:// address, or a name below --images, where a bare name is looked for first. Images "
    "without a row are clean.",
)
@registry_option
@click.option("--model", required=True, metavar="NAME", help="What the versions are called.")
@click.option("--classes", metavar="A,B,…", help="Names of the classes 1, 2, ….")
@bits_option
@click.option(
    "--groups",
    metavar="FILE",
    help="Csv ImageId,Group: images of one group stay on one side of the split.",
)
@click.option(
    "--validation-share",
    default=0.1,
    show_default=True,
    help="Share of the images that weights and thresholds are chosen on.",
)
@click.option(
    "--test-share",
    default=0.1,
    show_default=True,
    help="Share of the images that the version is judged on, and nothing is chosen on.",
)
@click.option("--split-seed", default=0, show_default=True, help="Which images are held out.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with the tables [recipe], [model] and [augment]; flags take precedence.",
)
@click.option("--architecture", help="Of segmentation-models-pytorch.  [default: Unet]")
@click.option(
    "--encoder",
    help="Of the same library, tu-… of timm, narrow16, narrow32, residual10.  [default: resnet18]",
)
@click.option("--encoder-weights", help="Pretrained weights, such as imagenet.")
@click.option("--steps", "num_steps", type=int, help="Updates of the weights.  [default: 2000]")
@click.option(
    "--epochs",
    "num_epochs",
    type=click.FloatRange(min=0, min_open=True),
    help="In place of --steps: how often as many crops as there are images are shown.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="NAME",
    help="Version of --store whose answers are learned beside the labels: <model>@<alias> or "
    "<model>-<12 hex>, of the same classes and size. Several times for several.",
)
@click.option(
    "--teacher-weight",
    type=float,
    help="Of the teachers' answers in the loss, 0 to 1.  [default: 0.5]",
)
@click.option(
    "--temperature",
    type=float,
    help="What the teachers' logits are divided by.  [default: 2]",
)
@click.option(
    "--unlabelled",
    type=PLACE,
    metavar="URL",
    help="Folder or s3:// prefix of more images, which the teachers label.",
)
@click.option("--batch-size", type=int, help="Crops of one update.  [default: 16]")
@click.option("--learning-rate", type=float, help="The highest.  [default: 0.002]")
@click.option("--crop-width", type=int, help="Columns of a crop.  [default: 512]")
@click.option("--seed", type=int, help="Of weights and crops.  [default: 0]")
@click.option("--patience", type=int, help="Stop after so many judgements without a better one.")
@click.option("--watch", type=click.Choice(FIGURES), help="The figure that decides what is best.")
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    help="Where to train; 'auto' is a GPU where there is one.  [default: auto]",
)
@click.option(
    "--precision",
    type=click.Choice(TRAINING_PRECISIONS),
    help="Of activations; a CPU takes fp32 or bf16.  [default: auto]",
)
@click.option(
    "--num-workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes on a Ray cluster, one GPU each where it has them; 0 trains in this process.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Cluster that --num-workers join; RAY_ADDRESS by default.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for scratch files, TensorBoard's among them; a temporary one by default.",
)
@links_option
@endpoint_option
@single_writer_option
@click.option("--verbose", is_flag=True, help="Log what happens to stderr.")
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

    The version is judged on images that nothing was chosen on, exported in float32 and float16, and
    in INT8 if that is as good. An interrupted run continues from its last checkpoint when the same
    command is given again.
    """
    configure_logging(verbose)
    if work is not None:
        with naming("--work", work):
            work.mkdir(parents=True, exist_ok=True)
    try:  # OpenCV and PyTorch take seconds to load, which `-h` and a wrong flag need not
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
    inputs = find_inputs(job)
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
        f"training needs {error.name}, which is not installed: `pip install 'steel-batch[train]'`."
    )


class _Shown:
    """What is shown while a job goes on and at its end; each sentence once."""

    def __init__(self) -> None:
        self._sentences: set[str] = set()

    def stage(self, text: str) -> None:
        """What is being done, or what a part of the data lacks."""
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
            f"engine {card.name}: trained on {training}, thresholds from {validation}, judged on "
            f"{test}: {headline(card.metrics, card.classes)}",
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
        console.print(f"score with it: --engine {card.name} --store {result.store}", soft_wrap=True)


def describe_step(record: Mapping[str, Any]) -> str:
    """One report of the training loop, or of judging on the validation part, as one line."""
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
