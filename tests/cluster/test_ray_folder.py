"""A folder of Ray's that is full or cannot be written is named before Ray starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from steel_batch.cluster.ray_folder import check_ray_folder
from steel_batch.errors import MachineError

JOIN = """
from steel_batch.cluster.join import joined_cluster
with joined_cluster(None):
    print("joined")
"""


ENVIRONMENTS = {
    "a relative folder": {"RAY_TMPDIR": "ray"},
    "folders that are empty": {"RAY_TMPDIR": "", "TMPDIR": ""},
    "switches that are empty": {"RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": ""},
}


@pytest.mark.ray
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_cluster_starts_with_variables_that_are_empty_or_relative(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # a socket's path must be short
        done = subprocess.run(
            [sys.executable, "-c", JOIN],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, **ENVIRONMENTS[name]},
        )
        assert done.returncode == 0, done.stderr
        assert Path(folder, "ray").exists() == (name == "a relative folder")


def test_a_folder_with_room_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "of" / "ray"))
    check_ray_folder(least_bytes=1)
    with pytest.raises(MachineError, match=rf"MB are free in its folder {tmp_path}/of/ray, "):
        check_ray_folder(least_bytes=1 << 60)


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "ray"))
    with pytest.raises(MachineError, match=r"file/ray cannot be written: Not a directory.*RAY_TMP"):
        check_ray_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted, which root may")
def test_a_full_disk_ends_a_run_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", tmp_path], check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        check_ray_folder()
        (tmp_path / "fill").write_bytes(bytes(99 << 20))
        # In a process of its own: this one may be connected to the tests' cluster.
        done = subprocess.run(
            [sys.executable, "-c", JOIN], capture_output=True, text=True, check=False
        )
        assert "MachineError: Ray cannot start here: 1.0 MB are free in it" in done.stderr
        assert done.stdout == ""
    finally:
        subprocess.run(["umount", tmp_path], check=True)
