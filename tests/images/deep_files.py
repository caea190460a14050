"""Images of more than 8 bits a sample, made by hand, each with the pixels that are right."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.generic]


def png(pixels: Pixels, *, before: bytes = b"", alpha: bool = False) -> bytes:
    """A PNG of 8 or 16 bits, gray [H, W], with transparency [H, W, 2] or [H, W, 4], or RGB."""
    height, width, *channels = pixels.shape
    colour = {(): 0, (2,): 4, (3,): 2, (4,): 6}[tuple(channels)]
    depth = 8 * pixels.dtype.itemsize
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", head),
        before,
        png_chunk(b"IDAT", content),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def packed(pixels: npt.NDArray[np.uint16], bits: int) -> bytes:
    """Pack samples of `bits` bits next to each other; each row is filled up to a whole byte."""
    places = np.arange(bits - 1, -1, -1)
    rows = (pixels[..., None] >> places & 1).astype(np.uint8)
    return np.packbits(rows.reshape(len(pixels), -1), axis=1).tobytes()


Entry = tuple[int, int, tuple[int, ...] | bytes]
"""Tag, kind of values (3: 16 bits, 4: 32 bits, 2: text), values."""


class Tiff:
    """A TIFF of one page or several, plain, one strip or tiles a page."""

    def __init__(self, order: str = "<") -> None:
        self._order = order
        self._pages: list[tuple[list[Entry], list[bytes]]] = []

    def add(self, pixels: Pixels | bytes, *more: Entry, **tags: object) -> Tiff:
        """A page: its pixels, and entries that add to or replace what follows from them."""
        entries: dict[int, Entry] = {}
        pieces = [pixels] if isinstance(pixels, bytes) else []
        if not isinstance(pixels, bytes):
            height, width, *channels = pixels.shape
            num_channels = channels[0] if channels else 1
            bits = 8 * pixels.dtype.itemsize
            stored = pixels.astype(np.dtype(f"{self._order}{pixels.dtype.str[1:]}"))
            tile = tags.get("tile")
            pieces = [stored.tobytes()] if tile is None else list(_tiles(stored, tile))  # type: ignore[arg-type]
            found: list[Entry] = [
                (256, 4, (width,)), (257, 4, (height,)), (258, 3, (bits,) * num_channels),
                (259, 3, (1,)), (262, 3, (2 if num_channels > 2 else 1,)),
                (277, 3, (num_channels,)),
            ]  # fmt: skip
            if tile is None:
                found += [(278, 4, (height,))]
            else:
                found += [(322, 4, (tile[1],)), (323, 4, (tile[0],))]  # type: ignore[index]
            entries = {entry[0]: entry for entry in found}
        entries |= {entry[0]: entry for entry in more}
        self._pages.append((list(entries.values()), pieces))
        return self

    def to_bytes(self, *, subdirectories: bool = False) -> bytes:
        """The file; with `subdirectories`, all pages but the first are ones of the first."""
        order, body = self._order, bytearray()
        places: list[int] = []
        start = 8
        for entries, pieces in self._pages:
            offsets = []
            for piece in pieces:
                offsets.append(start + len(body))
                body += piece + b"\0" * (len(piece) % 2)
            is_tiled = any(entry[0] == 322 for entry in entries)
            sizes = tuple(len(piece) for piece in pieces)
            entries.append((324 if is_tiled else 273, 4, tuple(offsets)))
            entries.append((325 if is_tiled else 279, 4, sizes))
        if subdirectories:
            self._pages[0][0].append((330, 4, (0,) * (len(self._pages) - 1)))
        # Directories from the last one on, so that each knows those behind it.
        for number in reversed(range(len(self._pages))):
            entries = sorted(self._pages[number][0])
            if subdirectories and number == 0:
                entries = [e if e[0] != 330 else (330, 4, tuple(places[::-1])) for e in entries]
            table = struct.pack(order + "H", len(entries))
            for tag, kind, values in entries:
                content = values if isinstance(values, bytes) else struct.pack(
                    order + str(len(values)) + {3: "H", 4: "I"}[kind], *values
                )  # fmt: skip
                if len(content) > 4:
                    place = start + len(body)
                    body += content + b"\0" * (len(content) % 2)
                    content = struct.pack(order + "I", place)
                table += struct.pack(order + "HHI", tag, kind, len(values)) + content.ljust(
                    4, b"\0"
                )
            following = places[-1] if places and not subdirectories else 0
            places.append(start + len(body))
            body += table + struct.pack(order + "I", following)
        magic = b"II*\0" if order == "<" else b"MM\0*"
        return magic + struct.pack(order + "I", places[-1]) + bytes(body)


def _tiles(pixels: Pixels, tile: tuple[int, int]) -> list[bytes]:
    height, width = pixels.shape[:2]
    pieces = []
    for top in range(0, height, tile[0]):
        for left in range(0, width, tile[1]):
            piece = np.zeros((*tile, *pixels.shape[2:]), pixels.dtype)
            part = pixels[top : top + tile[0], left : left + tile[1]]
            piece[: part.shape[0], : part.shape[1]] = part
            pieces.append(piece.tobytes())
    return pieces
