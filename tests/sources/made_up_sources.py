"""Tars, Parquet files and inventories made up, and what a source finds and reads of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.lake import Lake
from steel_batch.runs.planning import build_plan
from steel_batch.scoring.shard import ShardInput, read_shards
from steel_batch.sources.contract import Source
from steel_batch.sources.image_ref import ImageRef
from steel_batch.sources.open import open_source

Members = list[tuple[str | tarfile.TarInfo, bytes]]


def tar_of(members: Members, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet_of(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def inventory(lake: Lake, form: str, rows: list[dict[str, Any]]) -> str:
    """Write an S3 Inventory of the lake's bucket as S3 does; its manifest's key."""
    bucket = lake.url.removeprefix("s3://").split("/")[0] if lake.is_s3 else "archive"
    root = "/".join(lake.url.removeprefix("s3://").split("/")[1:]) + "/" if lake.is_s3 else ""
    columns = list(rows[0])
    if form == "CSV":
        names = {"key": "Key", "size": "Size", "e_tag": "ETag", "is_latest": "IsLatest",
                 "is_delete_marker": "IsDeleteMarker", "bucket": "Bucket"}  # fmt: skip
        text = "".join(",".join(f'"{v}"' for v in row.values()) + "\n" for row in rows)
        data, suffix, declared = (
            gzip.compress(text.encode()),
            "csv.gz",
            ", ".join(names[c] for c in columns),
        )
    else:
        data, suffix, declared = (
            parquet_of({c: [r[c] for r in rows] for c in columns}),
            "parquet",
            "message s3.inventory {}",
        )
    lake.write(f"inv/data/1.{suffix}", data)
    document = {
        "sourceBucket": bucket, "destinationBucket": f"arn:aws:s3:::{bucket}",
        "fileFormat": form, "fileSchema": declared,
        "files": [{"key": f"{root}inv/data/1.{suffix}", "size": len(data), "MD5checksum": "0"}],
    }  # fmt: skip
    # On a disk, keys are relative to the manifest's own folder.
    key = "inv/manifest.json" if lake.is_s3 else "manifest.json"
    lake.write(key, json.dumps(document).encode())
    return key


def source_of(lake: Lake, pattern: str | None, name: str = "") -> Source:
    return open_source(lake.uri(name), pattern, endpoint_url=lake.endpoint_url)


def images_of(lake: Lake, pattern: str | None, name: str = "") -> dict[str, ImageRef]:
    found = list(source_of(lake, pattern, name).select(None))
    assert len({ref.image_key for ref in found}) == len(found)
    return {ref.image_key: ref for ref in found}


def read(source: Source, tmp_path: Path) -> tuple[ShardInput, dict[str, bytes | str]]:
    """Plan and read everything as one shard: bytes or an error's code for each image."""
    settings = {"shard_images": 10_000, "shard_bytes": 1 << 30, "rescore_changed": False}
    build_plan(source.select(None), settings, tmp_path / "plan")
    plan = pq.read_table(tmp_path / "plan")
    number = plan.schema.get_field_index("shard")
    nought = pa.array([0] * len(plan), plan.schema.field(number).type)  # the first one is smaller
    plan = plan.set_column(number, plan.schema.field(number), nought)
    (shard,) = read_shards(source.lake, "r", "d", plan, [0])
    assert shard.failure is None
    shard = ShardInput.from_wire(shard.to_wire())
    found: dict[str, bytes | str] = {}
    for i, key in enumerate(shard.refs["image_key"].to_pylist()):
        error = shard.errors[i]
        found[key] = bytes(shard.contents[i] or b"") if error is None else error.code
    return shard, found
