"""Batch scoring of steel-surface images: a lake of images in, Parquet of defect masks out."""

import os
from importlib import import_module
from typing import Any

# From 1.29 on, ONNX Runtime reports each process and session to its maker, and keeps a database of
# it in the home folder, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_NAMES = {
    "DatePlan": "steel_batch.api.calls",
    "OpenStore": "steel_batch.answers.open_store",
    "RunResult": "steel_batch.runs.record",
    "ScoreConfig": "steel_batch.config",
    "SteelBatchError": "steel_batch.errors",
    "open_store": "steel_batch.api.calls",
    "plan": "steel_batch.api.calls",
    "score": "steel_batch.api.calls",
}
"""Where the names of the package are; `__init__.pyi` has their types."""

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first asked for: each command loads only what it needs."""
    if name in _NAMES:
        found: Any = getattr(import_module(_NAMES[name]), name)
    elif name == "__version__":
        found = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Read when it is first asked for: that takes longer than all else here."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("steel-batch")
    except PackageNotFoundError:  # run from a source tree on PYTHONPATH, as on a GPU rig
        return "0+source"
