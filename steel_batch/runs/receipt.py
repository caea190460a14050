"""Receipts: durable proof that one shard of a run is scored, and where its rows are staged.

The staged file is written first, under a name derived from its content; the receipt second, only if
there is none yet. If two attempts score one shard, the first receipt is the valid one, and the
other attempt can never overwrite the file that it names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from steel_batch import layout
from steel_batch.errors import LakeError, LargeObjectError, MissingObjectError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import MAX_BYTES, record_of
from steel_batch.lake.format_version import FileFormat

READ_AT_ONCE: Final = 1024
RECEIPTS_IN_PASSING: Final = 500
"""Receipts that are listed together with what is staged: half a page of a listing."""
_UNREADABLE: Final = (MissingObjectError, LargeObjectError)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
FORMAT: Final = FileFormat("a receipt", newest=2)
"""Of the receipt and of the columns of its staged rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedImage:
    """One quarantined image."""

    image_key: str
    error_code: str
    message: str
    bytes: int
    etag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What is recorded of one scored shard."""

    run_id: str
    plan_digest: str
    shard: int
    num_images: int
    num_rows: int
    staged: str | None
    """Key of the staged rows; None if every image of the shard is quarantined."""
    staged_bytes: int
    staged_sha256: str
    num_defective: tuple[int, ...]
    """Per class, the number of images of the shard with that defect."""
    quarantined: tuple[QuarantinedImage, ...]
    seconds: float
    scored_at: str
    scorer: str
    """Host, runtime and device that scored it."""

    def check(self) -> None:
        """Refuse what contradicts itself, or names rows that are not those of its shard.

        Raises:
            ValueError: It does; the message says how.
        """
        datetime.datetime.fromisoformat(self.scored_at)
        num_bad = len(self.quarantined)
        counts = (self.shard, self.num_rows, self.staged_bytes, self.seconds, *self.num_defective)
        if min(counts) < 0 or self.num_rows + num_bad != self.num_images:
            raise ValueError(
                f"{self.num_rows} rows and {num_bad} quarantined images are not {self.num_images}"
            )
        if max(self.num_defective, default=0) > self.num_rows:
            raise ValueError("more images have a defect than there are rows")
        if (self.staged is None) != (self.num_rows == 0):
            raise ValueError(f"{self.num_rows} rows are staged as {self.staged!r}")
        if self.staged is not None:
            if not _SHA256.fullmatch(self.staged_sha256):
                raise ValueError("'staged_sha256' is no SHA-256")
            place = layout.shard_file(self.run_id, self.shard, self.staged_sha256[:12])
            if self.staged != place:
                raise ValueError(f"its rows lie in {self.staged!r}, expected {place!r}")

    def to_json(self) -> bytes:
        """Serialise the receipt as one line of JSON."""
        return FORMAT.dump(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Receipt:
        """Parse a receipt.

        Raises:
            FormatError: It has a newer format.
            ValueError: It is damaged.
        """
        receipt = record_of(cls, FORMAT.load(text, source=source))
        receipt.check()
        return receipt


def stage(store: Lake, run_id: str, shard: int, rows: bytes) -> tuple[str, str]:
    """Write one shard's rows; writing the same content twice is harmless.

    Returns:
        The key and the SHA-256 of the staged file.
    """
    sha256 = hashlib.sha256(rows).hexdigest()
    key = layout.shard_file(run_id, shard, sha256[:12])
    store.write(key, rows)
    return key, sha256


def put_receipt(store: Lake, receipt: Receipt) -> Receipt:
    """Make a receipt durable; if another attempt's receipt is already there, return that one.

    Raises:
        LakeError: What is there is not a receipt of this shard and plan.
    """
    key = layout.receipt_file(receipt.run_id, receipt.shard)
    if store.put_if_absent(key, receipt.to_json()):
        return receipt
    try:
        standing = Receipt.from_json(store.read(key, max_bytes=MAX_BYTES), source=store.uri(key))
        if _identity(standing) != _identity(receipt):
            raise ValueError("it is of another shard or plan")
    except ValueError as error:
        raise LakeError(
            f"{store.uri(key)} is not the receipt of its shard: {error}. Run the same command "
            "again: it is deleted, and the shard scored again."
        ) from error
    return standing


def _identity(receipt: Receipt) -> tuple[str, str, int, int, int]:
    """What two receipts of one shard have in common."""
    return (
        receipt.run_id, receipt.plan_digest, receipt.shard, receipt.num_images,
        len(receipt.num_defective),
    )  # fmt: skip


def quarantined_images(store: Lake, run_id: str) -> Iterator[QuarantinedImage]:
    """Yield the images that a run quarantined so far, committed or not, in the order of its shards.

    Damaged receipts are skipped; nothing is deleted.

    Raises:
        FormatError: A receipt has a newer format.
    """
    keys = iter(sorted(item.key for item in store.list_objects(layout.receipts_dir(run_id))))
    while batch := list(islice(keys, READ_AT_ONCE)):
        found = store.read_many([_request(key) for key in batch])
        for key, data in zip(batch, found, strict=True):
            if isinstance(data, LakeError) and not isinstance(data, _UNREADABLE):
                raise data
            if isinstance(data, bytes):
                with contextlib.suppress(ValueError):
                    yield from Receipt.from_json(data, source=store.uri(key)).quarantined


def check_formats(store: Lake, run_id: str) -> None:
    """Refuse a run with a receipt that this build does not read; damaged ones pass.

    Raises:
        FormatError: One is of a newer format.
    """
    for _ in quarantined_images(store, run_id):
        pass


def read_receipts(
    store: Lake,
    run_id: str,
    plan_digest: str,
    *,
    num_shards: int | None = None,
    num_classes: int | None = None,
) -> Iterator[Receipt]:
    """Yield every valid receipt of a run, in no particular order, holding few at a time.

    A receipt that is damaged, lies in another's place, belongs to another plan or to none of its
    shards, or whose staged file is missing or has another size is deleted, so that its shard is
    scored again. The digest of the staged file is checked when it is merged. Only the holder of the
    run's lock may call this.

    Args:
        store: The store.
        run_id: The run.
        plan_digest: Digest of its plan.
        num_shards: Number of shards in its plan; None accepts any.
        num_classes: Number of classes of its engine; None accepts any.

    Raises:
        FormatError: A receipt has a newer format; it is not deleted.
    """
    staged = {
        item.key: item.size_bytes for item in store.list_objects(f"{layout.RUNS}/{run_id}/shards/")
    }
    keys = (item.key for item in store.list_objects(layout.receipts_dir(run_id)))

    def valid(key: str, data: bytes) -> Receipt | None:
        try:
            receipt = Receipt.from_json(data, source=store.uri(key))
        except ValueError:
            return None
        is_ours = (
            receipt.run_id == run_id
            and receipt.plan_digest == plan_digest
            and key == layout.receipt_file(run_id, receipt.shard)
            and (num_shards is None or receipt.shard < num_shards)
            and num_classes in (None, len(receipt.num_defective))
        )
        whole = receipt.staged is None or staged.get(receipt.staged) == receipt.staged_bytes
        return receipt if is_ours and whole else None

    while batch := list(islice(keys, READ_AT_ONCE)):
        invalid = []
        for key, data in zip(batch, store.read_many([_request(k) for k in batch]), strict=True):
            if isinstance(data, LakeError) and not isinstance(data, _UNREADABLE):
                raise data
            receipt = None if isinstance(data, LakeError) else valid(key, data)
            if receipt is None:
                invalid.append(key)
            else:
                yield receipt
        store.delete(invalid)


def _request(key: str) -> ReadRequest:
    return ReadRequest(key=key, max_bytes=MAX_BYTES)
