"""Commands that write a lake of made-up images: `synth` and `demo`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command_line import Command, keys, refused
from tests.interrupting import steel_batch as command


def test_synth_says_what_it_made(steel_batch: Command, tmp_path: Path) -> None:
    out = tmp_path / "lake"
    done = steel_batch("synth", "--out", out, "--num-images", 2, "--output", "json")
    assert keys(done.json) == {
        "out", "num_images", "num_defective", "num_masks", "bytes", "seconds",
    }  # fmt: skip
    assert done.json["num_images"] == 2
    assert len(list(out.rglob("*.jpg"))) == 2


def test_a_demo_never_deletes_what_is_not_a_demo(steel_batch: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        done = steel_batch("demo", "--out", out)
        assert done.code == 2
        assert "Give an empty or new folder" in done.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_named(steel_batch: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "out"
    assert refused(steel_batch("demo", "--out", out)) == f"Error: --out {out}: Not a directory."
    text = refused(steel_batch("synth", "--out", out, "--num-images", 1))
    assert f"{out}/" in text
    assert "a part of that path is a file; choose a folder." in text


def test_dates_of_synth_are_days_of_the_calendar(steel_batch: Command, tmp_path: Path) -> None:
    done = steel_batch("synth", "--out", tmp_path / "lake", "--dates", "2026-11-21,2026-99-99")
    assert "there is no date 2026-99-99; expected YYYY-MM-DD" in refused(done)
    assert not (tmp_path / "lake").exists()


@pytest.mark.skipif(os.cpu_count() == 1, reason="draws in the command's own process")
def test_ctrl_c_while_the_processes_of_synth_start_prints_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("synth", "--out", tmp_path / "lake", "--num-images", 10_000),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while not has_worker(process.pid):
            assert process.poll() is None
            assert time.monotonic() < end
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in told


def has_worker(pid: int) -> bool:
    """Whether a process has a child that multiprocessing has started, and that is importing."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    of_each = [
        Path(f"/proc/{child}/cmdline") for path in children for child in path.read_text().split()
    ]
    return any(b"spawn_main" in path.read_bytes() for path in of_each)
