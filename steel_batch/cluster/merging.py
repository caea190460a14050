"""Merges staged shards into files, as Ray tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ray

from steel_batch.cluster.agreement import Agreement
from steel_batch.cluster.ray_errors import ray_errors
from steel_batch.cluster.wait import wait_for
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.runs.events import Meter
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.merge import Cut, DamagedShardsError, merge_shards

log = logging.getLogger(__name__)

MERGES_AT_ONCE: Final = 32
MERGE_CPUS: Final = 0.25
"""CPUs that a merge claims: it mostly waits for the store."""


def _merge(
    agreement: Agreement, store: Lake, run_id: str, number: int, shards: range
) -> tuple[DataFile | SteelBatchError, dict[str, int]]:
    meter = Meter(store)
    found: DataFile | SteelBatchError
    try:
        agreement.check()
        found = merge_shards(store, run_id, number, shards)
    except DamagedShardsError as error:
        found = error
    except SteelBatchError as error:  # if raised, Ray would put a traceback into its message
        found = agreement.blame(error)
    return found, meter.take()


def merge_files(
    store: Lake,
    run_id: str,
    cuts: Sequence[Cut],
    on_file: Callable[[Mapping[str, int]], None],
) -> tuple[dict[Cut, DataFile], dict[int, str]]:
    """Merge shards into files, many at once. An error cancels the running merges.

    A single file is merged by this process: starting another one takes longer than most merges.

    Args:
        store: The store.
        run_id: The run.
        cuts: The files.
        on_file: Called with each finished file and what other processes' requests to the store
            met with (`Lake.counts`).

    Returns:
        The complete files, and the damage found in shards of the others.

    Raises:
        LakeError: The store failed for good.
    """
    if len(cuts) == 1:
        return _merge_here(store, run_id, cuts[0], on_file)
    agreement = Agreement.of_this_machine(store)
    merge = ray.remote(num_cpus=MERGE_CPUS, max_retries=3)(_merge)
    files: dict[Cut, DataFile] = {}
    damaged: dict[int, str] = {}
    waiting = list(cuts)[::-1]
    running: dict[Any, Cut] = {}
    try:
        while waiting or running:
            while waiting and len(running) < MERGES_AT_ONCE:
                cut = waiting.pop()
                running[merge.remote(agreement, store, run_id, *cut)] = cut
            (done, *_) = wait_for(list(running))
            cut = running.pop(done)
            with ray_errors():
                result, counts = ray.get(done)
            on_file(counts)
            if isinstance(result, DataFile):
                files[cut] = result
            elif isinstance(result, DamagedShardsError):
                damaged |= _damage_in(cut, result)
            else:
                raise result
    finally:
        for task in running:
            ray.cancel(task)
    return files, damaged


def _merge_here(
    store: Lake, run_id: str, cut: Cut, on_file: Callable[[Mapping[str, int]], None]
) -> tuple[dict[Cut, DataFile], dict[int, str]]:
    try:
        files, damaged = {cut: merge_shards(store, run_id, *cut)}, {}
    except DamagedShardsError as error:
        files, damaged = {}, _damage_in(cut, error)
    on_file({})
    return files, damaged


def _damage_in(cut: Cut, error: DamagedShardsError) -> dict[int, str]:
    log.warning("cannot merge file %d: %s", cut[0], error)
    return error.shards
