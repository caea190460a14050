"""Hostile inputs, each small, and what has to become of it.

None of them harms the libraries that read it: what would, is described where it is refused and not
kept. What they have in common is that they state, or stand for, far more than they are.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.image_files import encode, good_jpeg
from tests.images.deep_files import Tiff, png_chunk

SPARSE_BYTES = 100 << 30
"""Of the file that only its size makes large."""


def tiff(entries: Mapping[int, tuple[int, int, int]], tail: bytes = b"") -> bytes:
    """A TIFF of one directory: by tag its kind, how many values and the value or its place."""
    table = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + tail


def plain_tags(width: int, height: int) -> dict[int, tuple[int, int, int]]:
    """The tags of a gray TIFF with one strip."""
    return {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, width * height),
    }  # fmt: skip


def tiff_of_strips() -> bytes:
    """Sixty million rows, each a strip of its own, of which no place is stated."""
    return tiff({**plain_tags(1, 60_000_000), 278: (4, 1, 1)})


def tiff_of_tiles() -> bytes:
    """As many tiles of one pixel."""
    tags = plain_tags(7_000, 7_000)
    del tags[273], tags[278], tags[279]
    return tiff({**tags, 322: (4, 1, 1), 323: (4, 1, 1), 324: (4, 1, 8), 325: (4, 1, 1)})


def tiff_of_shared_values(num_pages: int = 400) -> bytes:
    """Pages that each have the same 50,000 values, which stand there once."""
    body, places = bytearray(bytes(200_000)), list[int]()
    for i in range(num_pages):
        places.append(8 + len(body))
        tags = {**plain_tags(160, 64), 254: (4, 1, 1), 273: (4, 50_000, 8)}
        following = 0 if i == num_pages - 1 else 8 + len(body) + 2 + 12 * len(tags) + 4
        body += struct.pack("<H", len(tags))
        for tag, entry in sorted(tags.items()):
            body += struct.pack("<HHII", tag, *entry)
        body += struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", places[0]) + bytes(body)


def tiff_of_overlapping_strips() -> bytes:
    """A strip of a row for each of 60,000 rows, all of them the same megabytes of LZW."""
    rows, strip = 60_000, b"\x80" + bytes((4 << 20) - 1)
    head = (256, 4, (1,)), (257, 4, (rows,)), (258, 3, (8,)), (259, 3, (5,)), (262, 3, (1,))
    more = (277, 3, (1,)), (278, 4, (1,)), (273, 4, (8,) * rows), (279, 4, (len(strip),) * rows)
    data = bytearray(b"II*\0\0\0\0\0" + strip)
    table = b""
    for tag, kind, values in sorted((*head, *more)):
        content = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > 4:
            content, place = struct.pack("<I", len(data)), content
            data += place
        table += struct.pack("<HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    struct.pack_into("<I", data, 4, len(data))
    return bytes(data) + struct.pack("<H", len(head) + len(more)) + table + bytes(4)


def tiff_of_clear_codes() -> bytes:
    """LZW of nothing but codes that clear the table."""
    codes = np.unpackbits(np.array([256], ">u2").view(np.uint8))[7:]
    strip = np.packbits(np.tile(codes, 400_000)).tobytes()
    head = [(256, 4, (160,)), (257, 4, (64,)), (258, 3, (8,)), (259, 3, (5,)), (262, 3, (1,)),
            (277, 3, (1,)), (278, 4, (64,))]  # fmt: skip
    return Tiff().add(strip, *head).to_bytes()


def jpeg_of_markers() -> bytes:
    """A JPEG whose pixels are markers, millions of them."""
    jpeg = good_jpeg()
    return jpeg[:-2] + b"\xff\xd0" * (4 << 20) + jpeg[-2:]


def jpeg_of_lists() -> bytes:
    """A list of images that is stated again and again, as large as the file."""
    num_tags = 3_000
    entry = struct.pack("<HHII", 0xB002, 7, 60_000, 8)
    index = b"II*\0\x08\0\0\0" + struct.pack("<H", num_tags) + entry * num_tags
    segment = b"\xff\xe2" + struct.pack(">H", len(index) + 6) + b"MPF\0" + index
    jpeg = good_jpeg()
    return jpeg[:2] + segment + jpeg[2:]


def jpeg_of_channels() -> bytes:
    """A frame of forty channels."""
    frame = struct.pack(">BHHB", 8, 64, 160, 40) + b"".join(bytes([i, 0x11, 0]) for i in range(40))
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def jpeg_progressive_bomb() -> bytes:
    """A frame of colours in scans, for whose coefficients a decoder makes room at once."""
    flags = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    jpeg = bytearray(encode(".jpg", np.zeros((64, 160, 3), np.uint8), *flags))
    at = jpeg.index(b"\xff\xc2") + 5
    struct.pack_into(">HH", jpeg, at, 7_900, 8_000)
    return bytes(jpeg)


def png_bomb(side: int = 7_900) -> bytes:
    """Pixels of one value, of which a thousand become one byte."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(bytes(side + 1)) for _ in range(side)) + deflate.flush()
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def bmp_of_runs() -> bytes:
    """Run-lengths that end before the first pixel, of sixty million."""
    head = struct.pack("<IiiHHIIiiII", 40, 7_900, 7_900, 1, 8, 1, 2, 0, 0, 0, 0)
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + 2, 0, 0, offset) + head + palette + b"\0\x01"


def pgm_of_comments() -> bytes:
    """A header of which nearly all is a comment."""
    return b"P5\n#" + b"x" * (1 << 20) + b"\n160 64\n255\n" + bytes(160 * 64)


IMAGES = {
    "tiff_of_strips": (tiff_of_strips, "too_large"),
    "tiff_of_tiles": (tiff_of_tiles, "too_large"),
    "tiff_of_shared_values": (tiff_of_shared_values, "undecodable"),
    "tiff_of_overlapping_strips": (tiff_of_overlapping_strips, "undecodable"),
    "tiff_of_clear_codes": (tiff_of_clear_codes, "undecodable"),
    "jpeg_of_markers": (jpeg_of_markers, "undecodable"),
    "jpeg_of_lists": (jpeg_of_lists, None),
    "jpeg_of_channels": (jpeg_of_channels, "too_large"),
    "jpeg_progressive_bomb": (jpeg_progressive_bomb, "too_large"),
    "png_bomb": (png_bomb, "wrong_size"),
    "bmp_of_runs": (bmp_of_runs, "unsupported_format"),
    "pgm_of_comments": (pgm_of_comments, "truncated"),
}
"""Loose images, and their codes for an engine of another size; None: they are scored."""


def parquet_of(columns: Mapping[str, object], **how: object) -> bytes:
    """A Parquet file of one row group."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **how)
    return sink.getvalue()


def parquet_of_zeros() -> bytes:
    """Values that compress well."""
    return parquet_of({"image": [bytes(20 << 20)] * 4}, compression="zstd", use_dictionary=False)


def parquet_of_one_value() -> bytes:
    """Rows that all refer to one value of the dictionary."""
    index = pa.array([0] * 1_500, pa.int32())
    column = pa.DictionaryArray.from_arrays(index, pa.array([bytes(900_000)], pa.binary()))
    return parquet_of({"image": column}, compression="zstd")


def parquet_of_rows() -> bytes:
    """Millions of rows without an image."""
    return parquet_of({"image": pa.nulls(3_000_000, pa.binary())}, compression="zstd")


def parquet_of_numbers() -> bytes:
    """One list of many equal numbers."""
    numbers = pa.array(np.zeros(20_000_000, np.uint8))
    lists = pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)
    return parquet_of({"image": lists}, compression="zstd")


def tar_of_headers(num: int = 3_000) -> bytes:
    """Extended headers of extended headers, and no member."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 11
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"11 comment=".ljust(512, b"\0")
    return block * num + bytes(1024)


def tar_without_progress() -> bytes:
    """A member of a negative size, behind which the next one would be itself."""
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"Z"
    header[124:136] = b"\xff" * 10 + b"\xfe\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(10_240 - 512)


def tar_of_members(num: int) -> bytes:
    """Members without a byte."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i in range(num):
            tar.addfile(tarfile.TarInfo(f"{i}.jpg"))
    return sink.getvalue()


def gzip_bomb(rows: Sequence[bytes], num: int) -> bytes:
    """Rows again and again, as a compressed inventory."""
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9, mtime=0) as stream:
        for _ in range(num):
            stream.write(b"".join(rows))
    return sink.getvalue()
