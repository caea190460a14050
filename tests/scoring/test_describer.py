"""Masks described in a process of its own: the same as here, whatever becomes of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from steel_batch.errors import ClusterError
from steel_batch.images.appearance import MEASURES, measure, row_step
from steel_batch.registry.card import PostProcess
from steel_batch.scoring.child import NICENESS
from steel_batch.scoring.describer import ChildDescriber, Describer, LocalDescriber
from steel_batch.scoring.description import joined
from steel_batch.synthetic import render

SHAPE_NHW = (8, 256, 1600)
POST = PostProcess(min_area_px=(9, 9, 9, 9), min_component_px=(4, 4, 4, 4), resize="fit")
CLASSES = 4


def started() -> ChildDescriber:
    made = ChildDescriber(POST)
    made.allocate(SHAPE_NHW, CLASSES, lambda _: None)
    return made


@pytest.fixture
def child() -> Iterator[ChildDescriber]:
    made = started()
    yield made
    made.close()


def said(describes: Describer, seed: int, *, height: int = 256, num: int = 8) -> pa.Table:
    """What is said of some synthetic strips, of every third of which no mask is asked about."""
    strips = [render(seed, i) for i in range(num)]
    masks = [strip.bitmask_HW for strip in strips]
    describes.sample_NHW[:num] = [strip.image_HW[:: row_step(256)] for strip in strips]
    count_NC = np.array(
        [[np.count_nonzero(mask_HW >> c & 1) for c in range(CLASSES)] for mask_HW in masks],
        np.float32,
    )
    count_NC[::3] = 0
    marked = np.flatnonzero(count_NC.any(axis=1)).tolist()
    for place, image in enumerate(marked):
        describes.mask_NHW[place] = masks[image]
    sizes = np.tile(np.array([height, 1600], np.int32), (len(marked), 1))
    peak_NC = np.linspace(0, 1, num * CLASSES, dtype=np.float32).reshape(num, CLASSES)
    said = joined([describes.describe(marked, sizes, peak_NC, count_NC)])
    looks = np.column_stack([said[name].to_numpy() for name in MEASURES])
    assert looks.dtype == np.float32
    np.testing.assert_array_equal(looks, measure(describes.sample_NHW[:num]))
    return said


def pid_of(child: Any) -> int:
    assert isinstance(child.pid, int), "it is closed"
    return child.pid


def is_alive(process: int) -> bool:
    """Also false of a zombie: one that has ended, which its parent has not asked about."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def test_a_child_says_what_is_said_here(child: ChildDescriber) -> None:
    local = LocalDescriber(SHAPE_NHW, POST)
    for seed, height, num in ((1, 256, 8), (2, 256, 3), (3, 200, 8), (4, 512, 1)):
        expected = said(local, seed, height=height, num=num)
        found = said(child, seed, height=height, num=num)
        assert found.equals(expected)
        assert found.schema == expected.schema
        assert len(found) == num
    assert pc.list_value_length(said(local, 1)["defects"]).to_pylist() != [0] * 8
    assert len(set(said(local, 1)["brightness"].to_pylist())) == 8


def test_a_child_gives_way_to_its_actor(child: ChildDescriber) -> None:
    said(child, 1)
    assert os.getpriority(os.PRIO_PROCESS, pid_of(child)) == min(os.nice(0) + NICENESS, 19)


def test_a_child_loads_no_pandas(child: ChildDescriber) -> None:
    """PyArrow would, for its first array, where it is installed: 0.2 s of CPU in each child."""
    pytest.importorskip("pandas")
    said(child, 1)
    assert "/pandas/" not in Path(f"/proc/{pid_of(child)}/maps").read_text()


def test_a_batch_without_pixels_has_no_defects(child: ChildDescriber) -> None:
    nothing = np.zeros((5, CLASSES), np.float32)
    child.sample_NHW[:5] = 7
    rows = joined([child.describe([], np.empty((0, 2), np.int32), nothing, nothing)]).to_pylist()
    looks = {"brightness": 7.0, "contrast": 0.0, "sharpness": 0.0}
    assert rows == [{"defects": [], **looks}] * 5


def test_a_child_that_is_killed_is_replaced_and_its_batch_described_again(
    child: ChildDescriber,
) -> None:
    expected = said(LocalDescriber(SHAPE_NHW, POST), 1)
    assert said(child, 1).equals(expected)
    os.kill(pid_of(child), signal.SIGKILL)
    assert said(child, 1).equals(expected)


def test_children_that_keep_ending_are_an_error(
    child: ChildDescriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(pid_of(child), signal.SIGKILL)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ClusterError, match=r"ended 2 times \(exit 1\). Check the"):
        said(child, 1)


def test_a_child_that_could_not_be_replaced_is_started_for_the_next_batch(
    child: ChildDescriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = said(child, 1)
    os.kill(pid_of(child), signal.SIGKILL)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ClusterError, match="nowhere"):
        said(child, 1)
    monkeypatch.undo()
    assert said(child, 1).equals(expected)


def test_where_no_process_starts_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ClusterError, match=r"child process of .*describer: .*nowhere"):
        ChildDescriber(POST)


def test_a_child_minds_no_interrupt_and_ends_with_its_describer(child: ChildDescriber) -> None:
    expected = said(child, 1)
    process = pid_of(child)
    os.kill(process, signal.SIGINT)
    assert said(child, 1).equals(expected)
    assert pid_of(child) == process
    child.close()
    child.close()
    assert not Path(f"/proc/{process}").exists(), "nor is it left as a zombie"


def test_a_child_ends_with_an_actor_that_is_killed() -> None:
    code = (
        "import time; from tests.scoring.test_describer import *\n"
        "child = started(); said(child, 1)\n"
        "print(pid_of(child), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as actor:
        process = int((actor.stdout or sys.stdin.buffer).readline())
        assert is_alive(process)
        actor.kill()
    until = time.monotonic() + 60
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(process)
