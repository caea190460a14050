"""Tests, by racing several writers, whether a store decides between writers of one object.

Locks, runs and the tables' logs each need a store that lets exactly one of several concurrent
writers create an object. Some S3 servers ignore the condition (``If-None-Match``), some refuse it,
and some apply it only to writers that come one after the other, and let concurrent ones all
succeed. A single request cannot show this; eight concurrent writers do.
"""

from __future__ import annotations

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from steel_batch import layout
from steel_batch.errors import LakeError, TransientLakeError, UndecidedStoreError
from steel_batch.lake.documents import read_document
from steel_batch.lake.lake import Lake

NUM_RIVALS: Final = 8
"""Number of concurrent writers of one object."""
ADVICE: Final = (
    'Use a store with conditional writes, such as AWS S3 or Ceph RGW (see "S3 and its servers" in '
    "the documentation), or add --unsafe-single-writer if no two commands ever write to this store "
    "at the same time."
)
_REFUSES: Final = "it refuses conditional puts"

_found: dict[tuple[int, str, str | None], str | None] = {}
_finding = threading.Lock()


def writable(store: Lake, *, single_writer: bool = False) -> Lake:
    """Return the store for a command that writes to it. Each process tests each store once.

    Args:
        store: The store to write to.
        single_writer: The user guarantees that nobody else writes there at the same time.

    Returns:
        The same store; `Lake.single_writer` is set if the store does not decide and the user gave
        that guarantee.

    Raises:
        UndecidedStoreError: The store does not decide between two writers; or it refuses
            conditional puts, which `single_writer` cannot help, as delta-rs needs them for the
            logs.
        LakeError: It cannot be written at all.
    """
    if not store.is_s3:
        return store  # the operating system decides: a link is only made if there is nothing
    with _finding:
        place = (os.getpid(), store.url, store.endpoint_url)
        if place not in _found:
            _found[place] = find_flaw(store)
        flaw = _found[place]
    if flaw is None:
        return store
    if single_writer and flaw.startswith(_REFUSES):
        raise UndecidedStoreError(
            f"{store.url} cannot be written: {flaw}. The tables' logs need such puts, so "
            "--unsafe-single-writer does not help here. Use a store with conditional writes, such "
            "as AWS S3 or Ceph RGW."
        )
    if single_writer:
        return store.for_single_writer()
    raise UndecidedStoreError(
        f"{store.url} does not decide between two writers: {flaw}. Two commands at once could both "
        f"hold one lock and lose each other's commits. {ADVICE}"
    )


def prove_writable(store: Lake) -> None:
    """Write a small object and delete it: before long work whose result is written to the store.

    Commands that write soon after they begin need no such proof.

    Raises:
        LakeError: The store cannot be written.
    """
    key = layout.probe_file(uuid.uuid4().hex)
    try:
        store.write(key, b"probe")
        store.delete([key])
    except LakeError as error:
        raise LakeError(f"--store {store.url} cannot be written: {error.message}") from error


def find_flaw(store: Lake) -> str | None:
    """Let several writers create one new object at once; the object is deleted afterwards.

    Returns:
        What is wrong with the store's decision; None if exactly one writer succeeded.

    Raises:
        LakeError: The store cannot be written at all, with or without a condition.
    """
    key = layout.probe_file(uuid.uuid4().hex)
    bodies = [f"probe of writer {number}".encode() for number in range(NUM_RIVALS)]
    start = threading.Barrier(NUM_RIVALS)

    def put(body: bytes) -> bool | LakeError:
        start.wait()
        try:
            return store.race(key, body)
        except LakeError as error:
            return error

    try:
        with ThreadPoolExecutor(NUM_RIVALS, "probe") as pool:
            answers = list(pool.map(put, bodies))
        return _judge(store, key, bodies, answers)
    finally:
        store.delete([key])


def _judge(
    store: Lake, key: str, bodies: list[bytes], answers: list[bool | LakeError]
) -> str | None:
    refusals = [answer for answer in answers if isinstance(answer, LakeError)]
    for refusal in refusals:
        if isinstance(refusal, TransientLakeError):
            raise refusal
    if refusals:
        try:
            store.write(key, bodies[0])  # if this is refused too, the condition is not the reason
        except LakeError:
            raise refusals[0] from None
        return f"{_REFUSES} ({refusals[0].message.rstrip('.')})"
    num_winners = sum(answer is True for answer in answers)
    if num_winners <= 1:
        found = read_document(store, key)
        if num_winners == 0 and found not in bodies:
            return f"of {NUM_RIVALS} writers that created one object at once, none succeeded"
        if num_winners == 0 or found == bodies[answers.index(True)]:
            return None  # a winner whose answer was lost was refused when it asked again
        return (
            f"of {NUM_RIVALS} writers that created one object at once, one was told that it had "
            "succeeded, but the object has another writer's content"
        )
    return (
        f"of {NUM_RIVALS} writers that created one object at once, {num_winners} were told that "
        "they had succeeded (it ignores If-None-Match, or applies it only to sequential writers)"
    )
