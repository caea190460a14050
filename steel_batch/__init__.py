"""Batch scoring of steel-surface images: a lake of images in, Parquet of defect masks out."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("steel-batch")
except PackageNotFoundError:  # run from a source tree on PYTHONPATH, as on a GPU rig
    __version__ = "0+source"
