"""Training on a Ray cluster: the same loop in each process; the store connects them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import ray
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.util.queue import Queue

from steel_batch import interrupt
from steel_batch.errors import (
    ClusterError,
    MachineError,
    SteelBatchError,
    TransientLakeError,
)
from steel_batch.lake import Lake
from training.dataset import Dataset
from training.journal import OnStep
from training.lessons import Lessons
from training.model import Segmenter
from training.recipe import TrainConfig
from training.stored import train_stored

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""How often a run is resumed after its workers died."""


def train_on_cluster(
    dataset: Dataset,
    validation: Dataset | None,
    config: TrainConfig,
    store: Lake,
    run: str,
    folder: Path,
    *,
    num_workers: int,
    on_step: OnStep = lambda _: None,
    lessons: Lessons | None = None,
) -> Segmenter:
    """Train in `num_workers` processes of the cluster that this process is connected to.

    Each takes a GPU, unless the recipe's device is ``cpu`` or the cluster has none. If a worker
    dies, the steps since the last checkpoint are lost and repeated.

    Args:
        dataset: Every worker must be able to read its lake and the store.
        validation: See `training.loop.train`.
        config: The recipe.
        store: For checkpoints and figures.
        run: The run's name.
        folder: Folder for temporary files of this process.
        num_workers: Processes.
        on_step: Called with each report, in a thread. Steps that are repeated after a worker died
            are reported again.
        lessons: See `training.loop.train`; every worker gets them.

    Raises:
        ConfigError: The cluster has too few GPUs or CPUs, or see `training.loop.train`.
        ClusterError: Workers died on every attempt; the checkpoint is kept.
        Interrupted: A signal requested a stop; the checkpoint is kept.
    """
    use_gpu = _wants_gpu(config, num_workers)
    cpus = 1.0 if use_gpu else float(config.num_threads)
    settings = {
        "dataset": dataset,
        "validation": validation,
        "config": dataclasses.replace(config, device="cuda" if use_gpu else "cpu"),
        "store": store,
        "run": run,
        "lessons": lessons,
    }
    scaling = ScalingConfig(
        num_workers=num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus} | ({"GPU": 1.0} if use_gpu else {}),
    )
    for attempt in range(1, ATTEMPTS + 1):
        with _relayed(on_step) as records:
            trainer = _Trainer(
                _work,
                train_loop_config=settings | {"records": records},
                scaling_config=scaling,
                run_config=RunConfig(name=run, storage_path=str(folder.absolute() / "ray")),
            )
            try:
                with _own_sigint(), interrupt.restored(), interrupt.waking(trainer.stop):
                    trainer.fit()
                break
            except TrainingFailedError as error:
                _raise_own(error)
                if attempt == ATTEMPTS:
                    raise ClusterError(
                        f"training {run} failed {ATTEMPTS} times: {_last_line(error)} Its "
                        "checkpoint is kept: run the same command again to resume."
                    ) from error
                log.warning("training %s: %s Resuming from its checkpoint.", run, _last_line(error))
    # The run is finished, so this reads the result from its checkpoint and trains no further.
    here = dataclasses.replace(config, device="cpu", compile=False)
    return train_stored(dataset, validation, here, store, run, folder)


class _Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
    """A trainer that can be stopped from another thread."""

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        """Ray Train passes its controller here: the actor that `fit` waits for."""
        self._controller = controller
        if not interrupt.is_installed():
            super()._register_sigint_handler(controller)
        elif interrupt.is_requested():
            self.stop()

    def stop(self) -> None:
        """End `fit` with an error; the workers end with the controller."""
        if self._controller is not None:
            ray.kill(self._controller)


@contextlib.contextmanager
def _relayed(on_step: OnStep) -> Iterator[Queue]:
    """A queue for workers; a thread of this process passes their records on."""
    records = Queue(actor_options={"num_cpus": 0})

    def relay() -> None:
        while (record := records.get()) is not None:
            on_step(record)

    with ThreadPoolExecutor(1, "records") as thread:
        relaying = thread.submit(relay)
        try:
            yield records
        finally:
            records.put(None)
    relaying.result()
    records.shutdown()


@contextlib.contextmanager
def _own_sigint() -> Iterator[None]:
    """Let Ctrl-C interrupt as it does everywhere else.

    Ray Train's handler stops the workers, exits with a code of its own, and is never removed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


def _work(settings: dict[str, Any]) -> None:
    """Train as one of the processes."""
    records = settings.pop("records")
    if settings["config"].device == "cuda":
        torch.cuda.set_device(ray.train.torch.get_device())
    with tempfile.TemporaryDirectory() as folder:
        train_stored(folder=Path(folder), on_step=records.put, **settings)


def _raise_own(error: TrainingFailedError) -> None:
    """Raise a user's mistake that a worker found: a retry would not fix it."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, SteelBatchError) and not isinstance(cause, TransientLakeError):
            raise cause from None


def _wants_gpu(config: TrainConfig, num_workers: int) -> bool:
    total = ray.cluster_resources()
    num_gpus, num_cpus = total.get("GPU", 0.0), total.get("CPU", 0.0)
    use_gpu = config.device == "cuda" or (config.device == "auto" and num_gpus > 0)
    if use_gpu and num_gpus < num_workers:
        raise MachineError(
            f"{num_workers} workers need a GPU each, but the Ray cluster has {num_gpus:g}. Use "
            "fewer --num-workers, or --device cpu."
        )
    if not use_gpu and num_cpus < num_workers * config.num_threads:
        raise MachineError(
            f"{num_workers} workers of {config.num_threads} threads need as many CPUs, but the Ray "
            f"cluster has {num_cpus:g}. Use fewer --num-workers, or a lower num_threads."
        )
    return use_gpu


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [repr(error)])[-1].rstrip(".") + "."
