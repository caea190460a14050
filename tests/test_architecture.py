"""The walls of `docs/architecture.md` hold: no room imports what its row does not name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("steel_batch", "training")
FACES = {"lake", "synthetic", "cli"}
"""Rooms whose `__init__.py` is more than a docstring."""


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of the product by its dotted name; a package by the name of its folder."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> Iterator[str]:
    """What a module imports, wherever in it the import stands, as ``module`` or ``module.name``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def walls_of(page: str) -> dict[str, set[str]]:
    """The table below "## Walls": what each room may import."""
    section = page.split("\n## Walls\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\w., ]+) \|$", section, re.MULTILINE)
    return {
        room: set() if allowed == "nothing" else set(allowed.split(", "))
        for room, allowed in rows
        if allowed != "may import"
    }


def room_of(module: str) -> str:
    """The room of a module; '' for those of the root, which every room may use."""
    package, *parts = module.split(".")
    if package == "training":
        return package
    is_room = (ROOT / package / parts[0]).is_dir() if parts else False
    return parts[0] if is_room else ""


def target_of(name: str, modules: dict[str, Path]) -> str | None:
    """The module of ours that an import loads: the longest one that its name begins with."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def broken_walls(root: Path, page: str) -> list[str]:
    """Every import that the table of walls does not allow."""
    modules, walls, found = modules_of(root), walls_of(page), []
    for module, path in modules.items():
        room = room_of(module)
        for name in imports_of(path):
            target = target_of(name, modules)
            other = "" if target is None else room_of(target)
            if target is None or other in ("", room):
                continue
            part = target.removeprefix("steel_batch.")
            allowed = walls.get(room, set())
            if other not in allowed and part not in allowed:
                found.append(f"{module} imports {target}: not in the row of {room or 'the root'!r}")
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_no_room_imports_what_its_row_does_not_name(page: str) -> None:
    assert broken_walls(ROOT, page) == []


def test_a_wall_that_is_taken_from_the_table_is_reported(page: str) -> None:
    narrowed = page.replace("| tables | lake, runs |", "| tables | lake |")
    assert any("imports steel_batch.runs." in line for line in broken_walls(ROOT, narrowed))


def test_each_room_has_a_row_and_each_row_a_room(page: str) -> None:
    rooms = {room_of(module) for module in modules_of(ROOT)} - {""}
    assert set(walls_of(page)) == rooms


def test_only_cluster_and_training_import_ray() -> None:
    users = {
        room_of(module) or module
        for module, path in modules_of(ROOT).items()
        for name in imports_of(path)
        if name.split(".")[0] == "ray"
    }
    assert users == {"cluster", "training"}


def test_no_module_takes_part_in_an_import_cycle() -> None:
    modules = modules_of(ROOT)
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = {target_of(name, modules) for name in imports_of(path)}
        graph[module] = {target for target in targets if target not in (None, module)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_face_of_a_room_is_its_docstring() -> None:
    for room in sorted({room_of(module) for module in modules_of(ROOT)} - {"", *FACES}):
        path = ROOT / ("training" if room == "training" else f"steel_batch/{room}") / "__init__.py"
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path


def test_the_root_holds_at_most_eight_modules() -> None:
    files = [path.name for path in (ROOT / "steel_batch").glob("*.py")]
    assert len(files) <= 8, files


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("steel_batch.pipeline.score", ["ray", "onnxruntime", "cv2", "duckdb"]),
        ("steel_batch.pipeline.backfill", ["ray", "onnxruntime", "cv2", "duckdb"]),
        ("steel_batch.cli.run_report", ["duckdb"]),
        ("steel_batch.cluster.join", ["ray.data", "onnxruntime", "cv2"]),
        ("steel_batch.cluster.dispatcher", ["ray", "pyarrow"]),
        ("steel_batch.cluster.read_stage", ["onnxruntime", "duckdb", "deltalake"]),
        ("steel_batch.scoring.describer", ["onnxruntime", "duckdb", "s3fs"]),
        ("steel_batch.scoring.writer", ["onnxruntime", "duckdb", "s3fs", "cv2", "pandas"]),
    ],
)
def test_what_starts_first_loads_only_what_it_needs(module: str, heavy: list[str]) -> None:
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
