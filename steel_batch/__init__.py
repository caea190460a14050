"""Batch scoring of steel-surface images: a lake of images in, Parquet of defect masks out."""

__version__: str


def __getattr__(name: str) -> str:
    """Return the version, read on first access: that takes longer than the rest of the import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("steel-batch")
    except PackageNotFoundError:  # run from a source tree on PYTHONPATH, as on a GPU rig
        found = "0+source"
    globals()["__version__"] = found
    return found
