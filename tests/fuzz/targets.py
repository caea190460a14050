"""What fuzzing feeds: each reader of what others write, with good inputs to begin from.

A target takes bytes and may raise errors of ours; anything else is a finding.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import layout
from steel_batch.config import Limits
from steel_batch.errors import SteelBatchError
from steel_batch.images.decode import check_jpeg
from steel_batch.images.header import check_size, probe
from steel_batch.images.wholeness import check_whole
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease, holder_of
from steel_batch.registry.card import Card
from steel_batch.runs.receipt import Receipt, read_receipts
from steel_batch.schema import PLAN
from steel_batch.scoring.shard import read_shards
from steel_batch.sources.image_ref import ref_batches
from steel_batch.sources.open import open_source
from steel_batch.sources.tar_index import Entry, Index, ShardHead, index_bytes
from tests.bad_files import strange_files
from tests.runs.test_receipt import RUN, receipt

Target = Callable[[bytes, Path], None]
LIMITS: Final = Limits(image_pixels=4_000_000, object_bytes=8 << 20, column_bytes=32 << 20)
SERIES: Final = "locks/fuzz"


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A reader and what it reads."""

    run: Target
    """Reads bytes; the folder is empty before and of its own."""
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    """What such inputs are made of."""


def read_header(data: bytes, _: Path) -> None:
    view = memoryview(data)
    header = probe(view, LIMITS)
    check_size(header, LIMITS)
    check_whole(view, header, LIMITS)
    check_jpeg(data, LIMITS)


def read_index(data: bytes, _: Path) -> None:
    for entry in Index(data, "a.tar.idx").entries():
        assert entry.name.encode()


def read_tar(data: bytes, folder: Path) -> None:
    (folder / "a.tar").write_bytes(data)
    _read_all(Lake(str(folder)), "*.tar")


def read_parquet(data: bytes, folder: Path) -> None:
    (folder / "a.parquet").write_bytes(data)
    _read_all(Lake(str(folder)), "*.parquet")


def read_manifest(data: bytes, folder: Path) -> None:
    name = "todo.parquet" if data.startswith(b"PAR1") else "todo.csv"
    (folder / name).write_bytes(data)
    list(open_source(str(folder / name), None, limits=LIMITS).select(None))


def read_inventory(data: bytes, folder: Path) -> None:
    """A manifest.json and a data file, one behind the other."""
    document, _, part = data.partition(b"\n\n")
    (folder / "manifest.json").write_bytes(document)
    (folder / "part").write_bytes(part)
    list(open_source(str(folder / "manifest.json"), None, limits=LIMITS).select(None))


def read_card(data: bytes, _: Path) -> None:
    card = Card.from_json(data, source="card.json")
    assert Card.from_json(card.to_json(), source="again") == card


def read_receipt(data: bytes, folder: Path) -> None:
    lake = Lake(str(folder))
    lake.write(layout.receipt_file(RUN, 0), data)
    for found in read_receipts(lake, RUN, "d", num_shards=4, num_classes=3):
        assert Receipt.from_json(found.to_json(), source="again") == found


def read_lock(data: bytes, folder: Path) -> None:
    lake = Lake(str(folder))
    lake.write(f"{SERIES}/00000001.json", data)
    assert str(holder_of(lake, SERIES))
    with Lease(lake, SERIES, what="the fuzzed lock") as lease:
        lease.check()


def _read_all(lake: Lake, pattern: str) -> None:
    """Plan and read a container."""
    refs = list(open_source(lake.url, pattern, limits=LIMITS).select(None))
    listed = pa.Table.from_batches(ref_batches(refs[:64], _LISTED), schema=_LISTED)
    shards = listed.add_column(0, "shard", pa.array([0] * len(listed), pa.int32()))
    for shard in read_shards(lake, "r", "d", shards.cast(PLAN), [0], LIMITS):
        shard.to_wire()


_LISTED: Final = pa.schema([field for field in PLAN if field.name != "shard"])


def _files() -> list[bytes]:
    return [file.data for file in strange_files() if len(file.data) < 20_000]


def _tars() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
            for name in ("a.jpg", f"{'long/' * 40}b.jpg", "ü.png"):
                info = tarfile.TarInfo(name)
                info.size = 700
                tar.addfile(info, io.BytesIO(bytes(700)))
            link = tarfile.TarInfo("c.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
            tar.addfile(link)
        found.append(sink.getvalue())
    return found


def _parquets() -> list[bytes]:
    columns = {
        "image": [b"first" * 40, b"second", None, b"first" * 40],
        "image_id": ["a", "b", "c", "d"],
        "date": ["2026-11-21"] * 4,
        "tags": pa.array([[("k", "v")], [], None, [("k", "w")]], pa.map_(pa.string(), pa.string())),
    }
    numbers = {"image": pa.array([[1, 2, 3], [4], None, []], pa.list_(pa.uint8()))}
    found = []
    for table, how in (
        (columns, {"compression": "zstd"}),
        (columns, {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}),
        (numbers, {"compression": "snappy"}),
    ):
        sink = io.BytesIO()
        pq.write_table(pa.table(table), sink, row_group_size=2, **how)
        found.append(sink.getvalue())
    return found


def _manifests() -> list[bytes]:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a.jpg"], "size": [3], "etag": ["e"], "camera": ["1"]}), sink)
    return [
        b"key,size,etag,line,date,image_id,camera\na.jpg,3,e,1,2026-11-21,a,top\n",
        b'key, date\n"a b.jpg", 20261121\n',
        b"key\n",
        sink.getvalue(),
    ]


def _inventories() -> list[bytes]:
    rows = io.StringIO()
    csv.writer(rows).writerows([["b", "a%20b.jpg", 3, "e"], ["b", "c.jpg", 4, "f"]])
    document = {
        "sourceBucket": "b", "destinationBucket": "arn:aws:s3:::b", "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, ETag", "files": [{"key": "part"}],
    }  # fmt: skip
    text = json.dumps(document).encode()
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a.jpg"], "size": [3], "e_tag": ["e"]}), sink)
    parquet = json.dumps({**document, "fileFormat": "Parquet"}).encode()
    return [
        text + b"\n\n" + gzip.compress(rows.getvalue().encode(), mtime=0),
        parquet + b"\n\n" + sink.getvalue(),
    ]


def _cards() -> list[bytes]:
    return [(Path(__file__).parents[2] / "steel_batch/demo_engine/card.json").read_bytes()]


def _indexes() -> list[bytes]:
    head = ShardHead(bytes=4096, tail_sha256="0" * 64, inputs_sha256="1" * 64, num_images=2)
    entries = [Entry("a.jpg", 512, 700, "2" * 64), Entry("ü/b.jpg", 2048, 12, "3" * 64)]
    return [index_bytes(head, entries)]


def _locks() -> list[bytes]:
    holder = {
        "token": "t", "host": "h", "pid": 7, "user": "u", "run_id": "r", "acquired_at": 1.7e9,
        "expires_at": 1.7e9, "released": False, "lease_seconds": 0.1,
    }  # fmt: skip
    return [json.dumps({**holder, "released": True}).encode(), json.dumps(holder).encode()]


_JSON: Final = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 40, b'"', b"{}", b"[]", b"[" * 3000,
    b'"\\ud800"', b"0.5", b"18446744073709551616", b'{"a":',
)  # fmt: skip

TARGETS: Final[Mapping[str, Fuzzed]] = {
    "header": Fuzzed(read_header, _files, (b"\xff\xd8", b"\xff\xda", b"IDAT", b"II*\0")),
    "tar_index": Fuzzed(read_index, _indexes, (*_JSON, b"\n")),
    "tar": Fuzzed(
        read_tar, _tars, (b"ustar\x0000", b"\x80\0\0\0\xff\xff\xff\xff", b"x", b"L", b"S")
    ),
    "parquet": Fuzzed(read_parquet, _parquets),
    "inventory": Fuzzed(read_inventory, _inventories, _JSON),
    "manifest": Fuzzed(read_manifest, _manifests, (b'"', b",", b"\n", b"\0", b"\xff", b"..", b"#")),
    "card": Fuzzed(read_card, _cards, _JSON),
    "receipt": Fuzzed(read_receipt, lambda: [receipt().to_json()], _JSON),
    "lock": Fuzzed(read_lock, _locks, _JSON),
}
ALLOWED: Final = (SteelBatchError,)
