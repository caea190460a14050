"""`steel-batch build-engine`: compile an engine for this machine's GPU and store the plan."""

from __future__ import annotations

import dataclasses
from typing import Final

import click

from steel_batch.cli.completion import complete_engine
from steel_batch.cli.output import (
    Table,
    answer,
    configure_logging,
    console,
    endpoint_option,
    output_option,
    print_json,
    single_writer_option,
)
from steel_batch.cli.score_options import signed_option
from steel_batch.cli.values import STORE
from steel_batch.config import GPU_BATCH_SIZE, PRECISIONS
from steel_batch.engine.build import build, usual_precision
from steel_batch.engine.compiled_plans import ANY_GPU, PlanRecord
from steel_batch.engine.gpu import OTHERWISE
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.lake.probe import writable
from steel_batch.registry.versions import load_engine

INSTEAD: Final = {
    "tensorrt": ", or run this on a GPU node; --runtime tensorrt_rtx needs no GPU.",
    "tensorrt_rtx": ", or run this on a machine where it is installed.",
}
"""What to do if a runtime is missing. ONNX Runtime is not listed: it uses no compiled plan."""


@click.command("build-engine")
@click.argument("engine", shell_complete=complete_engine)
@click.option("--store", type=STORE, metavar="URL", help="Folder or s3:// prefix of the registry.")
@endpoint_option
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "tensorrt_rtx"]),
    default="tensorrt",
    show_default=True,
    help="tensorrt compiles for this machine's GPU. tensorrt_rtx compiles for any RTX GPU, and "
    "needs none.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="'auto' selects fp16 if the engine has it, otherwise fp32.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=GPU_BATCH_SIZE,
    show_default=True,
    help="Images per inference.",
)
@signed_option
@single_writer_option
@click.option(
    "--verbose", is_flag=True, help="Write a detailed log, with TensorRT's messages, to stderr."
)
@output_option
def build_engine(
    engine: str,
    store: str | None,
    endpoint_url: str | None,
    runtime: str,
    precision: str,
    batch_size: int,
    require_signed: bool,
    unsafe_single_writer: bool,
    verbose: bool,
    output: str,
) -> None:
    """Compile ENGINE into a plan for this machine, check it, and store it with the engine.

    Takes one to five minutes. `score` compiles a missing plan itself; use this command to do it
    ahead of time. An existing plan of the same name is kept.
    """
    configure_logging(verbose)
    lake = Lake(store, endpoint_url=endpoint_url) if store else None
    if lake is not None:
        lake = writable(lake, single_writer=unsafe_single_writer)
    found = load_engine(
        engine, store=lake, endpoint_url=endpoint_url, require_signed=require_signed
    )
    try:
        if precision == "auto":
            precision = usual_precision(found, runtime)
        record = build(
            found, runtime=runtime, precision=precision, batch_size=batch_size, notify=console.print
        )
    except ConfigError as error:
        raise type(error)(error.message.replace(OTHERWISE, INSTEAD[runtime])) from error
    where = found.plan_home.uri(f"{found.plan_folder}/{record.file}")
    if output == "json":
        print_json({**dataclasses.asdict(record), "name": record.name, "uri": where})
        return
    answer.print(_table(record))
    answer.print(where)


def _table(record: PlanRecord) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("plan", record.name)
    table.add_row("engine", record.engine)
    table.add_row("runs on", _gpus(record))
    table.add_row("size", f"{record.size_bytes / (1 << 20):.1f} MiB")
    table.add_row("build time", f"{record.build_seconds:.1f} s")
    table.add_row("layers", ", ".join(f"{num} {kind}" for kind, num in record.layers.items()))
    table.add_row("ONNX Runtime", _agreement(record))
    return table


def _gpus(record: PlanRecord) -> str:
    if record.compute_capability == ANY_GPU:
        return f"the GPUs of TensorRT for RTX {record.runtime_version}"
    return f"compute capability {record.compute_capability}, such as this {record.device_name}"


def _agreement(record: PlanRecord) -> str:
    if not record.check:
        return "not compared: this machine has no GPU to run the plan"
    return (
        f"{record.check['differing_share']:.4%} of pixels differ on "
        f"{record.check['num_images']} images"
    )
