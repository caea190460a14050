"""Checks what a machine needs to score with an engine.

Each check returns findings and raises none of our errors, so that one pass shows all that is
missing. Nothing is changed; to test that the store can be written, one small object, or the folder
for it, is created and deleted.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steel_batch.config import RuntimeSettings
from steel_batch.engine.check import check_gpu, check_graph, check_packages, check_unused_gpu
from steel_batch.engine.finding import Finding, wrong
from steel_batch.engine.installed import installed
from steel_batch.engine.runtime import wants_gpu
from steel_batch.errors import LakeError, SteelBatchError
from steel_batch.lake import Lake
from steel_batch.lake.probe import ADVICE, find_flaw
from steel_batch.lake.retry import Retry
from steel_batch.registry.versions import Engine
from steel_batch.sources.manifest import is_manifest, place_of_manifest

IMPATIENT: Final = Retry(total_seconds=10.0, unreachable_seconds=10.0, max_refusals=2)
"""Short limits, as somebody waits for the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a machine is to do. Ray ships it to the nodes."""

    engine: Engine | None
    """None if it could not be loaded: checks that depend on it are skipped."""
    inference: RuntimeSettings | None
    """With the runtime to score with, never ``auto``; None for a machine that only reads."""
    store: Lake | None = None
    images: str | None = None
    endpoint_url: str | None = None
    version: str = field(default_factory=installed)
    """Version of steel-batch on the machine of the command."""


def check(wanted: Wanted) -> list[Finding]:
    """Check everything that this machine needs for what it is to do."""
    findings = [_check_python(), check_packages(wanted.version)]
    inference = wanted.inference
    if inference is not None and wants_gpu(inference.runtime):
        findings += check_gpu(wanted.engine, inference)
    elif inference is not None:
        findings.append(check_unused_gpu())
        if wanted.engine is not None:
            findings.append(check_graph(wanted.engine, inference.precision))
    if wanted.store is not None:
        findings.append(check_store(wanted.store))
    if wanted.images is not None:
        findings.append(check_images(wanted.images, wanted.endpoint_url))
    return findings


def _check_python() -> Finding:
    found = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPUs"
    )
    return Finding(name="Python", state="ok", found=found)


def describe_engine(engine: Engine) -> Finding:
    """Describe an engine that could be loaded."""
    card = engine.card
    precisions = ", ".join(graph.precision for graph in card.graphs)
    return Finding(
        name="engine",
        state="ok",
        found=f"{card.name}: {len(card.classes)} classes, {card.height}×{card.width} pixels, "
        f"{precisions}",
    )


def check_store(store: Lake) -> Finding:
    """Check that the store can be written, and lets only one of two writers of an object win."""
    if not store.is_s3 and not Path(store.url).exists():
        return _check_new_folder(Path(store.url))
    try:
        flaw = find_flaw(store.with_retry(IMPATIENT))
    except LakeError as error:
        return wrong("store", error)
    if flaw is not None:
        return Finding(
            name="store",
            state="wrong",
            found=f"{store.url} does not decide between two writers: {flaw}. Two runs could hold "
            "one lock and lose each other's commits.",
            remedy=ADVICE,
        )
    return Finding(
        name="store",
        state="ok",
        found=f"{store.url} can be written, and decides between two writers",
    )


def _check_new_folder(folder: Path) -> Finding:
    above = next(parent for parent in folder.parents if parent.exists())
    # Permissions alone are not enough: nobody can create a folder in /proc or on a read-only disk.
    with contextlib.suppress(OSError):
        Path(tempfile.mkdtemp(prefix=".steel-batch-", dir=above)).rmdir()
        return Finding(
            name="store",
            state="note",
            found=f"{folder} does not exist yet: the first run creates it",
        )
    return Finding(
        name="store",
        state="wrong",
        found=f"{folder} does not exist and cannot be created: {above} is not a folder that can be "
        "written. Check --store and the permissions.",
    )


def check_images(images: str, endpoint_url: str | None) -> Finding:
    """Check that the lake can be listed and has an object, or that the manifest exists."""
    try:
        lake = Lake(images, endpoint_url=endpoint_url, retry=IMPATIENT)
        place, name = place_of_manifest(images, endpoint_url, follow_links=True)
        if is_manifest(place.with_retry(IMPATIENT), name):
            return Finding(name="images", state="ok", found=f"{images} exists")
        first = next(lake.list_objects(), None)
    except SteelBatchError as error:
        return wrong("images", error)
    if first is None:
        return Finding(
            name="images",
            state="wrong",
            found=f"{lake.url} is empty or does not exist: check --images.",
        )
    return Finding(name="images", state="ok", found=f"{lake.url} can be listed")
