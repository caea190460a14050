"""Whether TensorRT 8.5 and the newest bindings both have every name of theirs that we use.

The names are read off our source: TensorRT's objects have the same variable names in all of it.
Names that some versions lack are asked for by `hasattr`, as strings, and so are not among them.
"""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

import steel_batch.engine

ENGINE = Path(steel_batch.engine.__file__).parent
VARIABLES = {
    "trt": "module",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "image": "ITensor",
    "tensor": "ITensor",
    "parser": "OnnxParser",
    "parse_error": "ParserError",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "cuda_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
RUNNING = ("tensorrt.py", "tensorrt_slot.py", "machine.py")
BUILDING = ("compiler.py",)


def used_names(file: str) -> set[tuple[str, str]]:
    """What a module of ours uses of TensorRT: pairs of a class and the path of a name in it."""
    found = set()
    tree = ast.parse((ENGINE / file).read_text())
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        path: list[str] = []
        value: ast.expr = node
        while isinstance(value, ast.Attribute):
            path.insert(0, value.attr)
            value = value.value
        if not isinstance(value, ast.Name):
            continue
        variable = value.id
        if variable == "self" and len(path) > 1:
            variable, *path = path
        kind = VARIABLES.get(variable.lstrip("_"))
        if kind is not None and not {"__init__", "__name__"} & set(path):
            found.add((kind, ".".join(path)))
    return found


def missing_names(bindings: ModuleType, names: set[tuple[str, str]]) -> list[str]:
    missing: list[str] = []
    for kind, path in sorted(names):
        holder: object = bindings if kind == "module" else getattr(bindings, kind, None)
        for name in path.split("."):
            holder = getattr(holder, name, missing)
            if holder is missing:
                missing.append(f"{kind}.{path}")
                break
    return missing


def load(name: str) -> ModuleType:
    return pytest.importorskip(f"{name}_bindings", reason=f"{name} has no wheel for this machine")


def test_the_source_is_read_as_it_is_written() -> None:
    running = {name for file in RUNNING for name in used_names(file)}
    assert {
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "execute_async_v3"),
        ("module", "TensorIOMode.INPUT"),
        ("module", "ILogger.Severity.ERROR"),
    } <= running
    building = {name for file in BUILDING for name in used_names(file)}
    assert {kind for kind, _ in building} == set(VARIABLES.values()) - {"IExecutionContext"}
    assert ("ITensor", "dtype") in building


@pytest.mark.parametrize("file", RUNNING)
@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_rtx"])
def test_the_newest_runtimes_have_every_name_that_running_uses(name: str, file: str) -> None:
    assert missing_names(load(name), used_names(file)) == []


@pytest.mark.parametrize("file", BUILDING)
def test_the_newest_builder_has_every_name_that_building_uses(file: str) -> None:
    assert missing_names(load("tensorrt_rtx"), used_names(file)) == []


@pytest.mark.parametrize("file", [*RUNNING, *BUILDING])
def test_tensorrt_8_5_has_every_name_that_we_use(file: str) -> None:
    # Written by `dir` in 8.5.3.1, whose 550 MB are for CPython 3.10 at most.
    names = json.loads((Path(__file__).parent / "tensorrt_8_5_names.json").read_text())["names"]
    known = {kind: set(listed.split()) for kind, listed in names.items()}
    missing: list[str] = []
    for kind, path in used_names(file):
        first, *rest = path.split(".")
        if kind == "module" and rest:
            kind, path = ".".join([first, *rest[:-1]]), rest[-1]
        if path not in known[kind]:
            missing.append(f"{kind}.{path}")
    assert missing == []


def test_a_name_that_bindings_lack_is_noticed() -> None:
    bindings = load("tensorrt_lean")
    assert missing_names(bindings, {("ICudaEngine", "num_bindings"), ("module", "Builder")}) == [
        "ICudaEngine.num_bindings",
        "module.Builder",
    ]


def test_the_optional_packages_are_not_imported_before_they_are_needed() -> None:
    for file in (*RUNNING, *BUILDING, "gpu.py", "nvjpeg.py"):
        importlib.import_module(f"steel_batch.engine.{file.removesuffix('.py')}")
        top = ast.parse((ENGINE / file).read_text()).body
        imported = {
            alias.name.split(".")[0]
            for node in top
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        imported |= {
            (node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)
        }
        assert not imported & {
            "tensorrt", "tensorrt_lean", "tensorrt_rtx", "pycuda", "cuda", "nvidia",
        }  # fmt: skip
