"""Nothing is imported from the folder that a command is run in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = (
    "cv2",
    "numpy",
    "pyarrow",
    "click",
    "multiprocessing",
    "runpy",
    "struct",
    "sitecustomize",
)
"""What stands in the folder: a command that imported one of them would not work."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which somebody left modules that note who imports them."""
    made = tmp_path / "lake"
    made.mkdir()
    for name in MODULES:
        text = f"open({str(made / 'imported')!r}, 'a').write({name!r} + chr(10))\n"
        (made / f"{name}.py").write_text(text)
    return made


def run(folder: Path, *command: str, pythonpath: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder, env={**os.environ, "PYTHONPATH": pythonpath}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


_SHOWN = """
import json, os, sys
sys.path[0] = sys.argv.pop(1)
from steel_batch.cli.search_path import leave_out_working_folder
leave_out_working_folder()
print(json.dumps([sys.path, os.environ.get("PYTHONPATH")]))
"""


@pytest.mark.parametrize(
    ("first", "pythonpath", "kept"),
    [
        ("HERE", "ROOT", "ROOT"),  # as `python -m` makes it
        ("", "ROOT", "ROOT"),  # as `python -c` does
        ("/nothing", ":ROOT", "ROOT"),
        ("/nothing", "ROOT:", "ROOT"),
        ("/nothing", "ROOT:.", "ROOT"),
        ("/nothing", "ROOT:../lake", "ROOT"),
        ("/nothing", "ROOT:lib:/else", "ROOT:/else"),
    ],
)
def test_the_working_folder_is_on_no_path_however_it_came_there(
    folder: Path, first: str, pythonpath: str, kept: str
) -> None:
    (folder / "lib").mkdir()
    done = run(
        folder, "-c", _SHOWN, str(folder) if first == "HERE" else first,
        pythonpath=pythonpath.replace("ROOT", str(ROOT)),
    )  # fmt: skip
    path, left = json.loads(done.stdout)
    assert not [entry for entry in path if not entry or entry.startswith(str(folder))]
    assert str(ROOT) in path
    assert left == kept.replace("ROOT", str(ROOT))
    warned = any(part in pythonpath.split(":") for part in (".", "../lake", "lib"))
    assert ("PYTHONPATH contains relative paths" in done.stderr) is warned


def test_an_absolute_path_to_the_working_folder_is_meant(folder: Path) -> None:
    done = run(folder, "-c", _SHOWN, "/nothing", pythonpath=f"{ROOT}:{folder}")
    path, left = json.loads(done.stdout)
    assert str(folder) in path
    assert left == f"{ROOT}:{folder}"
    assert not done.stderr


def test_a_source_tree_that_is_not_installed_is_run_from_its_own_folder() -> None:
    done = run(ROOT, "-c", _SHOWN, str(ROOT), pythonpath="")
    path, left = json.loads(done.stdout)
    assert path[0] == left == str(ROOT)


def test_children_run_the_same_interpreter_if_path_has_a_relative_entry(tmp_path: Path) -> None:
    python = Path(sys.executable)
    (tmp_path / "venv").symlink_to(python.parent.parent)
    done = subprocess.run(
        [python.name, "-m", "steel_batch.cli", "synth", "--out", "lake", "--num-images", "40"],
        cwd=tmp_path, env={**os.environ, "PATH": "venv/bin", "PYTHONPATH": str(ROOT)},
        executable=f"venv/bin/{python.name}",
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("script", ["installed", "module"])
def test_drawing_in_several_processes_imports_nothing_that_lies_there(
    folder: Path, script: str
) -> None:
    """`python -m` itself loads parts of the standard library before this package is there."""
    if script == "module":
        for name in ("multiprocessing", "runpy", "struct"):
            (folder / f"{name}.py").unlink()
    start = "from steel_batch.cli import main\nif __name__ == '__main__':\n    main()\n"
    if script == "installed":
        (folder.parent / "steel-batch").write_text(start)
    installed = [str(folder.parent / "steel-batch")]
    command = installed if script == "installed" else ["-m", "steel_batch.cli"]
    done = run(
        folder, *command, "synth", "--out", "drawn", "--num-images", "17", "--lines", "1",
        "--dates", "2026-11-21", pythonpath=str(ROOT),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("drawn/**/*.jpg"))) == 17
    assert not (folder / "imported").exists()
