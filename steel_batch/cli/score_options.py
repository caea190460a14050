"""The options of `score`, and what other commands take of them."""

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
    if path is not None:
        read_settings(
            context,
            path,
            click.command("score")(date_option(limit_option(run_options(lambda: None)))),
        )


date_option = click.option(
    "--date",
    type=DATE_OR_ALL,
    shell_complete=complete_date,
    required=True,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every date in the keys, one run each.",
)
limit_option = setting(
    "--limit",
    "max_images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score only N images of a date, the first ones without a row by line and key: to try with "
    "ten. The same command without it scores the others.",
)
engine_option = setting(
    "--engine",
    shell_complete=complete_engine,
    metavar="ENGINE",
    help="<model>@<alias>, <model>-<12 hex>, 'demo', or a version's folder.",
)
signed_option = setting(
    "--require-signed",
    help="Refuse an engine whose alias, card or compiled plan is not signed with the key in "
    "STEEL_BATCH_SIGNING_KEY.",
)
runtime_option = setting(
    "--runtime",
    type=click.Choice(RUNTIMES),
    help="What infers: TensorRT on GPUs where the cluster has it, otherwise ONNX Runtime on CPUs.",
)
precision_option = setting(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="'auto' is fp16 on a GPU where the engine has it, else fp32; int8 only when asked for.",
)
batch_size_option = setting(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Images of one inference: by default {GPU_BATCH_SIZE} on a GPU, or what its compiled "
    f"plan has, and {CPU_BATCH_SIZE} for ONNX Runtime.",
)
lake_options = _options(
    click.option(
        "--config",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file whose [score] table gives defaults for these options, and whose [limits] "
        "table gives limits.",
    ),
    setting(
        "--images",
        type=PLACE,
        metavar="URL",
        help="Folder or s3:// prefix of images or of containers of them; or a manifest: a .csv, a "
        ".parquet or an S3 Inventory's manifest.json.",
    ),
    setting(
        "--key-pattern",
        metavar="PATTERN",
        help="How keys read, e.g. 'line={line}/date={date}/{image_id}.jpg'. Without it, every "
        "image file under --images is scored and counted as --date. One that ends in .tar or "
        ".parquet names containers, and behind '#' a tar's members: "
        "'date={date}/*.tar#{image_id}.jpg'.",
    ),
    links_option,
    inventory_option,
    engine_option,
    store_option,
    endpoint_option,
    setting("--shard-images", type=int, help="Most images of a shard, the unit of retrying."),
    setting("--shard-bytes", type=SIZE, metavar="BYTES", help="Most bytes of a shard."),
    bits_option,
    setting(
        "--allow-other-keys",
        help="Score images also where they seem to have rows under other keys, as when packed.",
    ),
    setting("--rescore-changed", help="Score images again whose etag is not the committed one."),
    input_limit_option,
)
"""The options that say which images are meant."""

run_options = _options(
    lake_options,
    setting(
        "--max-bad",
        type=float,
        help="Share of images that may be unusable before the run fails with exit 3.",
    ),
    setting("--fresh", help="Abandon the date's unfinished run and what it scored."),
    signed_option,
    runtime_option,
    precision_option,
    batch_size_option,
    setting("--num-actors", type=int, help="Scoring actors; as many as fit by default."),
    setting(
        "--cpus-per-actor",
        type=float,
        help="CPUs of one scoring actor: by default three quarters of what its node has for each "
        f"GPU, or at most {MAX_CPUS_PER_ACTOR:g} where no GPU scores.",
    ),
    setting("--actors-per-gpu", type=int, help="Scoring actors that share one GPU."),
    setting("--ray-address", metavar="ADDRESS", help="Cluster to join; RAY_ADDRESS by default."),
    setting(
        "--lock-wait",
        "lock_wait_seconds",
        type=float,
        metavar="SECONDS",
        help="How long to wait while another run holds the date, instead of exit 4.",
    ),
    setting(
        "--lease-seconds",
        type=float,
        metavar="SECONDS",
        help="How long the lock outlives a run that died.",
    ),
    single_writer_option,
    setting("--merge-bytes", type=SIZE, metavar="BYTES", help="Aimed size of committed files."),
    setting("--shard-attempts", type=int, help="Tries of a failing shard."),
    setting(
        "--decode",
        "decode_on",
        type=click.Choice(DECODES_ON),
        help="Where JPEGs become pixels. 'auto' is the GPU that scores, where it decodes.",
    ),
    setting("--decoder", help="'module:function' that turns bytes into gray pixels."),
    setting(
        "--decode-seconds",
        type=float,
        metavar="SECONDS",
        help="How long decoding one image may take before it is quarantined.",
    ),
    setting(
        "--infer-seconds",
        type=float,
        metavar="SECONDS",
        help="How long the engine may take for one batch before its process is ended.",
    ),
    click.option("--verbose", is_flag=True, help="Log what happens to stderr."),
    output_option,
)
"""Every option of a run."""
