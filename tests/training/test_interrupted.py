"""Jobs that are killed, interrupted or spread over processes end as an undisturbed one does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from tests.interrupting import NUM_SLOW, interrupt_again_and_again, steel_batch
from tests.training.small_job import RECIPE, job
from training.job import JobResult, run_job

KILL = """
import os, signal
from pathlib import Path
from tests.interrupting import NUM_SLOW, interrupt_again_and_again, steel_batch
from tests.training.small_job import RECIPE, job
from training.job import run_job

def die(record):
    if record["step"] == 9:
        os.kill(os.getpid(), signal.SIGKILL)

run_job(job(Path({images!r}), Path({store!r})), RECIPE, on_step=die)
"""


def test_a_job_that_was_killed_and_run_again_ends_with_the_same_version_and_figures(
    made: tuple[JobResult, Lake], images: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    script = KILL.format(images=str(images), store=str(store))
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    lake = Lake(str(store))
    assert lake.stat(layout.training_file(made[0].run, "checkpoint.pt")) is not None
    assert list(lake.list_objects("registry/")) == []
    steps: list[int] = []
    again = run_job(job(images, store), RECIPE, on_step=lambda r: steps.append(r["step"]))
    assert min(steps) > 3, "it began anew"
    assert again.run == made[0].run
    assert again.card.version == made[0].card.version
    assert again.card.metrics == made[0].card.metrics


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_workers_of_a_cluster_make_the_same_network(
    made: tuple[JobResult, Lake], images: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    result = run_job(
        job(images, tmp_path, num_workers=1), RECIPE, on_step=lambda r: steps.append(r["step"])
    )
    assert steps == [3, 6, 6, 9, 12, 12]
    assert result.card.version == made[0].card.version
    wrong = dataclasses.replace(RECIPE, positive_weight=(1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="3 values, expected 2"):
        run_job(job(images, tmp_path, num_workers=1), wrong)
    many = dataclasses.replace(RECIPE, batch_size=999)
    with pytest.raises(ConfigError, match="999 workers of 1 threads need as many CPUs"):
        run_job(job(images, tmp_path, num_workers=999), many)


@pytest.mark.parametrize(
    "num_workers", [0, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.ray])]
)
def test_ctrl_c_ends_a_job_with_what_to_do_next(
    images: Path, tmp_path: Path, num_workers: int
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[recipe]\nnum_threads = 1\nbatch_size = 2\nreport_steps = 1\ncheckpoint_steps = 1\n"
        "[augment]\ncrop_width = 64\n[model]\nencoder = 'narrow16'\n"
        "decoder_channels = [16, 16, 16, 16, 16]\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "jobs/train.py", "--images", str(images), "--model", "bands"]
    command += ["--store", str(tmp_path / "store"), "--config", str(recipe), "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--num-workers", str(num_workers)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # or a shell's `&` stays
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 2 "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert rest.endswith("interrupted: run the same command again to resume.\n")
    assert process.returncode == 130


@pytest.mark.timeout(7200)
@pytest.mark.slow
def test_training_that_is_interrupted_at_random_moments_ends_with_the_same_version(
    images: Path, tmp_path: Path
) -> None:
    """Most of the time is PyTorch's import: `INTERRUPTIONS=20` makes three, `300` forty-three."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[recipe]\nnum_threads = 1\nbatch_size = 2\nreport_steps = 1\ncheckpoint_steps = 1\n"
        "num_steps = 6\n[augment]\ncrop_width = 64\n[model]\nencoder = 'narrow16'\n"
        "decoder_channels = [16, 16, 16, 16, 16]\n"
    )
    store = Lake(str(tmp_path / "store"))
    command = steel_batch(
        "train", "--images", images, "--model", "bands", "--store", store.url,
        "--config", recipe, "--device", "cpu",
    )  # fmt: skip
    versions = []

    def renew() -> None:
        versions.append([i.key for i in store.list_objects("registry/") if "card" in i.key])
        assert versions[-1] == versions[0]
        store.delete([item.key for item in store.list_objects()])

    interrupt_again_and_again(command, store, NUM_SLOW, seed=6, renew=renew)


def training_workers() -> list[int]:
    """Ray Train's processes below the Ray that this process started."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")")[-1].split()[1]
            )
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
    return [
        pid
        for pid, title in titles.items()
        if b"RayTrainWorker" in title and parents.get(parents[pid]) == os.getpid()
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_version_of_an_undisturbed_run(
    images: Path, tmp_path: Path
) -> None:
    undisturbed = run_job(job(images, tmp_path / "whole", num_workers=2), RECIPE)
    seen: list[int] = []
    killed: list[int] = []

    def kill_once(record: dict[str, Any]) -> None:
        seen.append(record["step"])
        if record["step"] >= 6 and not killed:
            killed.append(training_workers()[-1])
            os.kill(killed[0], signal.SIGKILL)

    result = run_job(job(images, tmp_path / "cut", num_workers=2), RECIPE, on_step=kill_once)
    assert killed
    assert sorted(set(seen)) == [3, 6, 9, 12]
    assert result.run == undisturbed.run
    assert result.card.version == undisturbed.card.version
    assert result.card.metrics == undisturbed.card.metrics
