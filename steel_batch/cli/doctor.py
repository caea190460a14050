"""`steel-batch doctor`: check what scoring needs, and show how to fix what is wrong."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from typing import Final

import click
from rich.text import Text

from steel_batch.cli.output import (
    Table,
    answer,
    console,
    counted,
    endpoint_option,
    output_option,
    print_json,
)
from steel_batch.cli.score_options import (
    batch_size_option,
    engine_option,
    precision_option,
    runtime_option,
    signed_option,
)
from steel_batch.cli.values import PLACE, STORE
from steel_batch.cluster.check_machine import Wanted, check, describe_engine
from steel_batch.cluster.check_nodes import NodeReport, check_nodes
from steel_batch.cluster.fit import choose_runtime
from steel_batch.cluster.join import joined_cluster
from steel_batch.config import Precision, RuntimeName, RuntimeSettings
from steel_batch.engine.finding import Finding, wrong
from steel_batch.engine.runtime import wants_gpu
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine

COLOURS: Final = {"ok": "green", "note": "yellow", "wrong": "red"}


@click.command()
@engine_option
@click.option(
    "--store", type=STORE, metavar="URL", help="Folder or s3:// prefix to check for writing."
)
@click.option(
    "--images", type=PLACE, metavar="URL", help="Folder, s3:// prefix or manifest to check."
)
@endpoint_option
@runtime_option
@precision_option
@batch_size_option
@signed_option
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Check every node of this Ray cluster. Default: RAY_ADDRESS; if unset, this machine only.",
)
@output_option
def doctor(
    engine: str,
    store: str | None,
    images: str | None,
    endpoint_url: str | None,
    runtime: RuntimeName,
    precision: Precision,
    batch_size: int | None,
    require_signed: bool,
    ray_address: str | None,
    output: str,
) -> None:
    """Check what scoring needs; exit 1 if a check fails.

    Checks packages, driver, GPU, TensorRT, the engine's compiled plan and memory, or ONNX Runtime
    and the graph; --store and --images add checks of those. On a cluster, every node is checked.
    """
    lake = None if store is None else Lake(store, endpoint_url=endpoint_url)
    engine_finding: Finding
    found = None
    try:
        found = load_engine(
            engine, store=lake, endpoint_url=endpoint_url, require_signed=require_signed
        )
        engine_finding = describe_engine(found)
    except SteelBatchError as error:
        engine_finding = wrong("engine", error)
    inference = RuntimeSettings(runtime=runtime, precision=precision, batch_size=batch_size)
    wanted = Wanted(
        engine=found,
        inference=inference,
        store=lake,
        images=images,
        endpoint_url=endpoint_url,
    )
    if ray_address or os.environ.get("RAY_ADDRESS"):
        with joined_cluster(ray_address):
            inference = dataclasses.replace(inference, runtime=choose_runtime(runtime))
            reports = check_nodes(dataclasses.replace(wanted, inference=inference))
    else:
        if runtime == "auto":
            inference = dataclasses.replace(
                inference, runtime="tensorrt" if wants_gpu(runtime) else "onnxruntime"
            )
        findings = check(dataclasses.replace(wanted, inference=inference))
        reports = [NodeReport(node=platform.node(), findings=findings)]
    num_wrong = sum(f.state == "wrong" for r in reports for f in r.findings)
    num_wrong += engine_finding.state == "wrong"
    if output == "json":
        print_json(
            {
                "ok": num_wrong == 0,
                "runtime": inference.runtime,
                "engine": dataclasses.asdict(engine_finding),
                "nodes": [dataclasses.asdict(report) for report in reports],
            }
        )
    else:
        _show(engine_finding, reports)
        console.print(f"{counted(num_wrong, 'check')} failed" if num_wrong else "all checks passed")
    if num_wrong:
        raise click.exceptions.Exit(1)


def _show(engine: Finding, reports: Sequence[NodeReport]) -> None:
    """Show one row per check; below each node's table, how to fix each failed check."""
    _show_rows([engine])
    for report in reports:
        answer.print(f"\nnode {report.node}", style="bold", markup=False)
        _show_rows(report.findings)
        for finding in report.findings:
            if finding.remedy:
                answer.print(f"{finding.name}: {finding.remedy}", markup=False)


def _show_rows(findings: Sequence[Finding]) -> None:
    """Show findings: wrapped in their column on a terminal, elsewhere one line each for grep."""
    if not answer.is_terminal:
        for finding in findings:
            answer.print(f"{finding.state:5}  {finding.name:8}  {finding.found}", markup=False)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=5)
    table.add_column(min_width=8)
    for finding in findings:
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(state, finding.name, Text(finding.found))
    answer.print(table)
