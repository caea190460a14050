"""`steel-batch score`: score one date, or every date, of a lake."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from steel_batch.cli.completion import complete_date, complete_engine
from steel_batch.cli.limits import LIMIT_NAMES, LIMITS_OF_FILE, check_limit, limit_option
from steel_batch.cli.output import (
    Command,
    bits_option,
    configure_logging,
    console,
    counted,
    duration,
    endpoint_option,
    others,
    output_option,
    print_json,
    say,
    single_writer_option,
    store_option,
)
from steel_batch.cli.values import DATE, DATE_OR_ALL, PLACE, SIZE
from steel_batch.config import (
    CPU_BATCH_SIZE,
    DECODER,
    DECODES,
    GPU_BATCH_SIZE,
    INFER_SECONDS,
    MAX_CPUS_PER_ACTOR,
    RUNTIMES,
    ScoreConfig,
    read_toml,
)
from steel_batch.errors import ConfigError
from steel_batch.registry.card import PRECISIONS
from steel_batch.runs.events import Observer, Progress
from steel_batch.runs.record import RunResult


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take a file's settings as defaults, without those of `score` that this command lacks."""
    if path is not None:
        context.meta[LIMITS_OF_FILE] = {
            name: check_limit(f"--config {path}", name, value)
            for name, value in read_toml(path, section="limits", names=LIMIT_NAMES).items()
        }
        own = _settings(context.command)
        found = read_toml(path, section="score", names=_settings(score) | own, is_required=True)
        options = {str(option.name): option for option in score.params + context.command.params}
        for name, value in found.items():
            _check_kind(path, options[name], value)
        context.default_map = {k: v for k, v in found.items() if k in own.values()}


def _check_kind(path: Path, option: click.Parameter, value: Any) -> None:
    """Refuse what TOML says in another kind of value: click would make 3 of 3.7, and 1 of true.

    Raises:
        ConfigError: It names the key and both kinds.
    """
    flag = option.opts[-1].removeprefix("--")
    kinds: tuple[type, ...]
    if getattr(option, "is_flag", False):
        kinds, expected = (bool,), "true or false"
    elif isinstance(option.type, click.types.IntParamType):
        kinds, expected = (int,), "a whole number"
    elif isinstance(option.type, click.types.FloatParamType):
        kinds, expected = (int, float), "a number"
    elif option.type is SIZE:
        kinds, expected = (int, str), "a size, such as 67108864 or '64 MiB'"
    elif option.type in (DATE, DATE_OR_ALL):
        kinds, expected = (str, datetime.date), "a date"
    else:
        kinds, expected = (str,), "text in quotes"
    is_bool = isinstance(value, bool) and bool not in kinds
    is_time = isinstance(value, datetime.datetime)
    if is_bool or is_time or not isinstance(value, kinds):
        raise ConfigError(f"--config {path}: {flag} is {value!r}, expected {expected}.")


def _settings(command: click.Command) -> dict[str, str]:
    """What a file may set of a command: its flags without their dashes, by parameter."""
    return {
        option.opts[-1].removeprefix("--"): str(option.name)
        for option in command.params
        if isinstance(option, click.Option) and option.name not in ("config", "limits")
    }


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


date_option = click.option(
    "--date",
    type=DATE_OR_ALL,
    shell_complete=complete_date,
    required=True,
    metavar="DATE",
    help="YYYY-MM-DD, or 'all' for every date in the keys, one run each.",
)
engine_option = click.option(
    "--engine",
    shell_complete=complete_engine,
    default="demo",
    show_default=True,
    metavar="ENGINE",
    help="<model>@<alias>, <model>-<12 hex>, 'demo', or a version's folder.",
)
signed_option = click.option(
    "--require-signed",
    is_flag=True,
    help="Refuse an engine whose alias, card or compiled plan is not signed with the key in "
    "STEEL_BATCH_SIGNING_KEY.",
)
runtime_option = click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="What infers: TensorRT on GPUs where the cluster has it, otherwise ONNX Runtime on CPUs.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="'auto' is fp16 on a GPU where the engine has it, else fp32; int8 only when asked for.",
)
batch_size_option = click.option(
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
    click.option(
        "--images",
        type=PLACE,
        required=True,
        metavar="URL",
        help="Folder or s3:// prefix of images or of containers of them; or a manifest: a .csv, a "
        ".parquet or an S3 Inventory's manifest.json.",
    ),
    click.option(
        "--key-pattern",
        metavar="PATTERN",
        help="How keys read, e.g. 'line={line}/date={date}/{image_id}.jpg'. Without it every image "
        "file below --images is taken, and --date is only the name they get. One that ends in .tar "
        "or .parquet names containers, and behind '#' a tar's members: "
        "'date={date}/*.tar#{image_id}.jpg'.",
    ),
    engine_option,
    store_option,
    endpoint_option,
    click.option(
        "--shard-images",
        default=512,
        show_default=True,
        help="Most images of a shard, the unit of retrying.",
    ),
    click.option(
        "--shard-bytes",
        type=SIZE,
        default=64 << 20,
        metavar="BYTES",
        help="Most bytes of a shard.  [default: 64 MiB]",
    ),
    bits_option,
    limit_option,
    click.option(
        "--allow-other-keys",
        is_flag=True,
        help="Score images also where they seem to have rows under other keys, as when packed.",
    ),
    click.option(
        "--rescore-changed",
        is_flag=True,
        help="Score images again whose etag is not the committed one.",
    ),
)
"""The options that say which images are meant."""

run_options = _options(
    lake_options,
    click.option(
        "--max-bad",
        default=0.01,
        show_default=True,
        help="Share of images that may be unusable before the run fails with exit 3.",
    ),
    click.option(
        "--fresh", is_flag=True, help="Abandon the date's unfinished run and what it scored."
    ),
    signed_option,
    runtime_option,
    precision_option,
    batch_size_option,
    click.option("--num-actors", type=int, help="Scoring actors; as many as fit by default."),
    click.option(
        "--cpus-per-actor",
        type=float,
        help="CPUs of one scoring actor: by default three quarters of what its node has for each "
        f"GPU, or at most {MAX_CPUS_PER_ACTOR:g} where no GPU scores.",
    ),
    click.option(
        "--actors-per-gpu",
        type=int,
        default=1,
        show_default=True,
        help="Scoring actors that share one GPU.",
    ),
    click.option(
        "--ray-address", metavar="ADDRESS", help="Cluster to join; RAY_ADDRESS by default."
    ),
    click.option(
        "--lock-wait",
        "lock_wait_seconds",
        default=0.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait while another run holds the date, instead of exit 4.",
    ),
    click.option(
        "--lease-seconds",
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the lock outlives a run that died.",
    ),
    single_writer_option,
    click.option(
        "--merge-bytes",
        type=SIZE,
        default=256 << 20,
        metavar="BYTES",
        help="Aimed size of committed files.  [default: 256 MiB]",
    ),
    click.option(
        "--shard-attempts", default=3, show_default=True, help="Tries of a failing shard."
    ),
    click.option(
        "--decode",
        type=click.Choice(DECODES),
        default="auto",
        show_default=True,
        help="Where JPEGs become pixels. 'auto' is the GPU that scores, where it decodes.",
    ),
    click.option(
        "--decoder",
        default=DECODER,
        show_default=True,
        help="'module:function' that turns bytes into gray pixels.",
    ),
    click.option(
        "--decode-seconds",
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long decoding one image may take before it is quarantined.",
    ),
    click.option(
        "--infer-seconds",
        default=INFER_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="How long the engine may take for one batch before its process is ended.",
    ),
    click.option("--verbose", is_flag=True, help="Log what happens to stderr."),
    output_option,
)
"""Every option of a run."""


@click.command()
@run_options
@date_option
def score(output: str, verbose: bool, **options: Any) -> None:
    """Score a date's images and commit one row per image.

    An unfinished run of the same engine, date and settings is continued. Images that have their
    row already are left out, so running again after late images arrive adds only those.
    """
    score_and_show(output, verbose, options)


def score_and_show(output: str, verbose: bool, options: dict[str, Any]) -> None:
    """Score as the options say, show how far it is, and show or print the results."""
    from steel_batch.pipeline.run import score as score_dates  # imports Ray

    configure_logging(verbose)
    config = ScoreConfig(**options)
    with progress_line() as observe:
        for result in score_dates(config, observe):  # a date that fails does not hide those before
            if output == "json":
                print_json(result.to_json())
            else:
                show_result(result, rescored=config.rescore_changed)


@contextmanager
def progress_line(*, every_seconds: float = 30.0) -> Iterator[Observer]:
    """One line on stderr, rewritten while a run goes on.

    Args:
        every_seconds: Where a line cannot be rewritten, as in a log, a new one is printed for
            every step, and this long after the last.
    """
    if not console.is_terminal:
        last = ("", 0.0)

        def note(progress: Progress) -> None:
            nonlocal last
            now = time.monotonic()
            if progress.step != last[0] or now - last[1] >= every_seconds:
                last = (progress.step, now)
                say(describe(progress))

        yield note
        return
    with console.status("starting") as status:
        yield lambda progress: status.update(describe(progress))


def describe(progress: Progress) -> str:
    """A run's progress as one line."""
    parts = [progress.step]
    if progress.num_images:
        parts.append(f"{progress.num_done:,} of {progress.num_images:,} images")
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.seconds_left:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.num_quarantined:
        parts.append(f"{progress.num_quarantined:,} quarantined")
    return " · ".join(parts)


def show_result(result: RunResult, *, rescored: bool = False) -> None:
    """How a run ended, for a person.

    Args:
        result: How it ended.
        rescored: Whether images that were changed since were scored again.
    """
    notes = left_alone(result, rescored=rescored)
    if result.run_id is None:
        say(
            f"{result.date}: nothing new: all {result.num_committed_before + result.num_changed:,} "
            f"images have their row or quarantine entry already.{notes}"
        )
        return
    quarantined = f"{result.num_quarantined:,} quarantined"
    if result.num_quarantined:
        quarantined += " (`steel-batch quarantine list` says why)"
    late = (
        f"; {result.num_committed_before:,} had their row or quarantine entry already"
        if result.num_committed_before
        else ""
    )
    rate = f"{result.images_per_second:,.1f} images/s; " if result.images_per_second else ""
    scored = f"{counted(result.num_scored, 'image')} scored with {result.engine}"
    if result.num_resumed_images:
        scored += f", {result.num_resumed_images:,} of the run's images by an earlier attempt,"
    retried = ""
    if result.num_retried:
        retried = (
            f" Tried again: {counted(result.num_retried, 'quarantined image')}, of which "
            f"{result.num_retried - result.num_bad_again:,} left the quarantine."
        )
    say(
        f"{result.date}: {scored} in {duration(result.seconds)} ({rate}start-up "
        f"{duration(result.startup_seconds)}), {quarantined}{late}.{retried}{notes}"
    )
    table = Table("class", "name", "images", "share", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for entry in result.classes:
        share = entry.num_images / max(1, result.num_scored)
        table.add_row(
            str(entry.class_id), entry.class_name, f"{entry.num_images:,}", f"{share:.1%}"
        )
    console.print(table)
    console.print(f"run {result.run_id}, table version {result.table_version}")
    console.print(f"{result.predictions}", soft_wrap=True)


def left_alone(result: RunResult, *, rescored: bool) -> str:
    """What a date has beside the scored images, as sentences; each begins with a blank."""
    changed = (
        f" Changed since they were scored: {counted(result.num_changed, 'image')}, "
        f"{'whose rows are replaced' if rescored else 'left so without --rescore-changed'}."
        if result.num_changed
        else ""
    )
    left_out = (
        f" Left out by their keys: {others(result.num_left_out, result.example_left_out)}."
        if result.num_left_out
        else ""
    )
    return changed + left_out
