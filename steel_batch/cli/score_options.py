"""The options of `score`, and those that other commands share with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from steel_batch.cli.completion import complete_date, complete_engine
from steel_batch.cli.limits import input_limit_option
from steel_batch.cli.output import (
    Command,
    bits_option,
    endpoint_option,
    inventory_option,
    links_option,
    output_option,
    single_writer_option,
    store_option,
)
from steel_batch.cli.settings import read_settings, setting
from steel_batch.cli.values import DATE_OR_ALL, PLACE, SIZE
from steel_batch.config import (
    CPU_BATCH_SIZE,
    DECODES_ON,
    GPU_BATCH_SIZE,
    MAX_CPUS_PER_ACTOR,
    PRECISIONS,
    RUNTIMES,
)


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    group = context.find_root().command
    others = []
    if isinstance(group, click.Group):  # not imported: those import this module
        others = [group.get_command(context, name) for name in ("score", "backfill")]
    read_settings(context, path, [command for command in others if command is not None])


date_option = click.option(
    "--date",
    type=DATE_OR_ALL,
    shell_complete=complete_date,
    required=True,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every date found in the keys, one run each: with "
    "`--output json`, one line of JSON each.",
)
limit_option = setting(
    "--limit",
    "max_images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Take at most N images of the date, such as 10 to try a configuration. Takes the first "
    "ones without a row, by line and key. Run the command without it to score the rest.",
)
report_option = click.option(
    "--report",
    "with_report",
    is_flag=True,
    help="Write report.html into the folder of each run that commits; see `steel-batch report`.",
)
alert_option = click.option(
    "--alert-if",
    multiple=True,
    metavar="CONDITION",
    help="Raise an alert if the run meets this condition: drift, failed, quarantined > 0.005, "
    'images < 1000 or defect_rate["scratches"] > 0.2. Alerts are written to alerts.json in the '
    "run's folder, and sent to STEEL_BATCH_ALERT_URL if it is set. The exit code does not change, "
    "but is 1 if a condition could not be checked. Repeatable.",
)
engine_option = setting(
    "--engine",
    shell_complete=complete_engine,
    metavar="ENGINE",
    help="<model>@<alias>, <model>-<12 hex digits>, 'demo', or the folder of a version.",
)
signed_option = setting(
    "--require-signed",
    help="Refuse an engine if its alias, card or compiled plan is not signed with the key in "
    "STEEL_BATCH_SIGNING_KEY.",
)
runtime_option = setting(
    "--runtime",
    type=click.Choice(RUNTIMES),
    help="What runs the engine. 'auto' is TensorRT on GPUs if the cluster has it, otherwise ONNX "
    "Runtime on CPUs.",
)
precision_option = setting(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="'auto' is fp16 on a GPU if the engine has it, otherwise fp32. int8 is never automatic.",
)
batch_size_option = setting(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Images per inference. Default: that of the compiled plan, or {GPU_BATCH_SIZE}, on a "
    f"GPU; {CPU_BATCH_SIZE} with ONNX Runtime.",
)
lake_options = _options(
    click.option(
        "--config",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file: [score] sets defaults for these options, [limits] sets limits.",
    ),
    setting(
        "--images",
        type=PLACE,
        metavar="URL",
        help="Folder or s3:// prefix of images or containers; or a manifest: .csv, .parquet, or an "
        "S3 Inventory's manifest.json.",
    ),
    setting(
        "--key-pattern",
        metavar="PATTERN",
        help="Where a key contains line, date and image ID, such as "
        "'line={line}/date={date}/{image_id}.jpg'. Without it, every image file under --images is "
        "one of --date; `backfill`, which takes the dates from the keys, needs it. "
        "A pattern that ends in .tar or .parquet matches containers; '#' separates a tar from its "
        "members: 'date={date}/*.tar#{image_id}.jpg'.",
    ),
    links_option,
    inventory_option,
    engine_option,
    store_option,
    endpoint_option,
    setting(
        "--shard-images", type=int, help="Most images per shard, the unit of scoring and retrying."
    ),
    setting("--shard-bytes", type=SIZE, metavar="BYTES", help="Most bytes per shard."),
    bits_option,
    setting(
        "--allow-other-keys",
        help="Score images even if they seem to have rows under other keys, such as after packing.",
    ),
    setting("--rescore-changed", help="Score images again if their ETag has changed."),
    input_limit_option,
)
"""The options that select images."""

run_options = _options(
    lake_options,
    setting(
        "--max-bad",
        type=float,
        help="Share of images that may be quarantined before the run fails with exit code 3.",
    ),
    setting("--fresh", help="Discard the date's unfinished run and its results; start a new one."),
    signed_option,
    runtime_option,
    precision_option,
    batch_size_option,
    setting("--num-actors", type=int, help="Number of scoring actors. Default: as many as fit."),
    setting(
        "--cpus-per-actor",
        type=float,
        help="CPUs per scoring actor. Default: with GPUs, three quarters of a node's CPUs divided "
        f"by its GPUs; without, at most {MAX_CPUS_PER_ACTOR:g}.",
    ),
    setting("--actors-per-gpu", type=int, help="Number of scoring actors that share one GPU."),
    setting("--ray-address", metavar="ADDRESS", help="Ray cluster to join. Default: RAY_ADDRESS."),
    setting(
        "--lock-wait",
        "lock_wait_seconds",
        type=float,
        metavar="SECONDS",
        help="How long to wait if another run holds the date's lock, before exit code 4.",
    ),
    setting(
        "--lease-seconds",
        type=float,
        metavar="SECONDS",
        help="How long the lock of a run stays valid after the run dies.",
    ),
    single_writer_option,
    setting("--merge-bytes", type=SIZE, metavar="BYTES", help="Target size of committed files."),
    setting("--shard-attempts", type=int, help="How often a failing shard is tried in all."),
    setting(
        "--decode",
        "decode_on",
        type=click.Choice(DECODES_ON),
        help="Where JPEGs are decoded. 'auto' is the GPU that scores, if it can decode.",
    ),
    setting("--decoder", help="Decoder as 'module:function', which turns bytes into gray pixels."),
    setting(
        "--decode-seconds",
        type=float,
        metavar="SECONDS",
        help="Longest time to decode one image. After it, the image is quarantined.",
    ),
    setting(
        "--infer-seconds",
        type=float,
        metavar="SECONDS",
        help="Longest time to infer one batch. After it, the engine's process is killed.",
    ),
    click.option("--verbose", is_flag=True, help="Write a detailed log to stderr."),
    output_option,
)
"""Every option of a run."""
