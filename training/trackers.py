"""Where figures of a run go beside ``metrics.jsonl``: TensorBoard and MLflow, if installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.journal import OnStep


@contextlib.contextmanager
def open_trackers(folder: Path, run: str, settings: Mapping[str, Any]) -> Iterator[OnStep]:
    """Give a function that passes each reported object on.

    Args:
        folder: TensorBoard's files lie below it, in ``tensorboard``; MLflow's in ``mlruns``, unless
            ``MLFLOW_TRACKING_URI`` names a server.
        run: The run's name.
        settings: What MLflow shows as parameters.
    """
    with contextlib.ExitStack() as stack:
        targets = []
        if importlib.util.find_spec("tensorboard") is not None:
            targets.append(stack.enter_context(_tensorboard(folder / "tensorboard")))
        if importlib.util.find_spec("mlflow") is not None:
            targets.append(stack.enter_context(_mlflow(folder / "mlruns", run, settings)))

        def report(record: dict[str, Any]) -> None:
            for target in targets:
                target(record)

        yield report


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[OnStep]:
    tensorboard = importlib.import_module("torch.utils.tensorboard")  # slow, and not always there
    with tensorboard.SummaryWriter(str(folder)) as writer:

        def report(record: dict[str, Any]) -> None:
            for name, value in record.items():
                if name != "step":
                    writer.add_scalar(
                        name.replace("validation_", "validation/"), value, record["step"]
                    )

        yield report


@contextlib.contextmanager
def _mlflow(folder: Path, run: str, settings: Mapping[str, Any]) -> Iterator[OnStep]:
    mlflow = importlib.import_module("mlflow")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(folder.absolute().as_uri())
    with mlflow.start_run(run_name=run):
        mlflow.log_params({name: str(value)[:500] for name, value in settings.items()})

        def report(record: dict[str, Any]) -> None:
            figures = {name: float(value) for name, value in record.items() if name != "step"}
            mlflow.log_metrics(figures, step=record["step"])

        yield report
