"""Trackers of a run's figures besides ``metrics.jsonl``: TensorBoard, and MLflow if installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from steel_batch import layout
from steel_batch.lake import Lake
from training.journal import OnStep


@contextlib.contextmanager
def open_trackers(
    folder: Path, store: Lake, run: str, settings: Mapping[str, Any]
) -> Iterator[OnStep]:
    """Return a function that passes each report to the trackers.

    Args:
        folder: Receives TensorBoard's files during the run, in ``tensorboard``.
        store: Receives them at the end, next to the run's checkpoint.
        run: The run's name, also in MLflow, which finds its server as usual.
        settings: Parameters to show in MLflow.
    """
    events = folder / "tensorboard"
    try:
        with contextlib.ExitStack() as stack:
            targets = [stack.enter_context(_tensorboard(events))]
            if importlib.util.find_spec("mlflow") is not None:
                targets.append(stack.enter_context(_mlflow(run, settings)))

            def report(record: dict[str, Any]) -> None:
                for target in targets:
                    target(record)

            yield report
    finally:
        for file in sorted(events.glob("*")):
            name = layout.training_file(run, f"{events.name}/{file.name}")
            store.write(name, file.read_bytes())


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[OnStep]:
    with contextlib.ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def report(record: dict[str, Any]) -> None:
            if not writers:  # a finished run reports nothing, and has no file
                writers.append(stack.enter_context(SummaryWriter(str(folder))))
            for name, value in record.items():
                if name != "step":
                    tag = name.replace("validation_", "validation/")
                    writers[0].add_scalar(tag, value, record["step"])

        yield report


@contextlib.contextmanager
def _mlflow(run: str, settings: Mapping[str, Any]) -> Iterator[OnStep]:
    mlflow = importlib.import_module("mlflow")  # optional
    # It prints URLs, which must not reach stdout.
    with contextlib.redirect_stdout(sys.stderr), mlflow.start_run(run_name=run):
        mlflow.log_params({name: str(value)[:500] for name, value in settings.items()})

        def report(record: dict[str, Any]) -> None:
            figures = {name: float(value) for name, value in record.items() if name != "step"}
            mlflow.log_metrics(figures, step=record["step"])

        yield report
