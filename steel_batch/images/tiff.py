"""Reads a TIFF's pages, decides which one is the image, and prepares the file for OpenCV.

OpenCV reads the first page, always applies its orientation, and multiplies colours by an associated
transparency channel. So OpenCV gets a copy without those tags that begins with the right page.

Source: TIFF 6.0, and Adobe's technical notes for subdirectories.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import DecodeError
from steel_batch.images.formats import unsupported

KIND, OLD_KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
FILL_ORDER, DESCRIPTION, STRIP_OFFSETS, ORIENTATION = 266, 270, 273, 274
CHANNELS, ROWS_PER_STRIP, STRIP_BYTES, PLANES = 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
PREDICTOR, SUBDIRECTORIES, EXTRA_SAMPLES, SAMPLE_FORMAT, DEPTH = 317, 330, 338, 339, 32997
_TAGS: Final = frozenset(
    {KIND, OLD_KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION,
     STRIP_OFFSETS, ORIENTATION, CHANNELS, ROWS_PER_STRIP, STRIP_BYTES, PLANES, PREDICTOR,
     TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUBDIRECTORIES, EXTRA_SAMPLES,
     SAMPLE_FORMAT, DEPTH}
)  # fmt: skip
_LETTERS: Final = {1: "B", 2: "B", 3: "H", 4: "I", 13: "I"}
"""struct codes of the value types: bytes, text, 16-bit and 32-bit integers, directory offsets."""
COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_NOT_COMPRESSED: Final = 1
_PREDICTED: Final = frozenset({5, 8, 32946})
"""Compressions of which every reader undoes a predictor. Of others some do and some do not."""
_NO_PREDICTOR, _DIFFERENCES = 1, 2
SEPARATE_PLANES: Final = 2
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2
_UNSPECIFIED, MULTIPLIED, BESIDE = 0, 1, 2
"""Kinds of an extra channel: unspecified, transparency already multiplied into the colours, or
transparency stored separately."""
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS: Final = frozenset({_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, YCBCR})
_WHOLE_NUMBERS: Final = 1
_RGBA_CHANNELS = _MOST_CHANNELS = 4
_MOST_SUBDIRECTORIES: Final = 100
_MOST_PAGES: Final = 10_000
_SHOWN: Final = 5
_SHARED_BYTES: Final = 64 << 10
"""Bytes that directories may share, because a writer may store equal values once."""
_IMAGEJ: Final = re.compile(rb"ImageJ=[^\0]*?\nimages=(\d{1,9})\n")

Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a directory: its tag, and where its values are stored."""

    tag: int
    letter: str
    num_values: int
    position: int


class _Directories:
    """The directories of a file, which together are no larger than the file.

    Directories that overlap would let a small file have any number of values.

    Args:
        data: The file.
        limits: The most values of one tag are its `tiff_pieces`.
    """

    def __init__(self, data: memoryview, limits: Limits) -> None:
        self.data, self.order = data, "<" if data[0] == ord("I") else ">"
        self._max_values = limits.tiff_pieces
        self._left_bytes = len(data) + _SHARED_BYTES

    def first_place(self) -> int:
        """Return the position of the first page's directory."""
        (place,) = struct.unpack_from(self.order + "I", self.data, 4)
        return int(place)

    def next_place(self, place: int) -> int:
        """Return the position of the directory after another one; 0 if there is none."""
        (num_entries,) = struct.unpack_from(self.order + "H", self.data, place)
        (following,) = struct.unpack_from(self.order + "I", self.data, place + 2 + 12 * num_entries)
        return int(following)

    def entries(self, place: int) -> Iterator[_Entry]:
        """Yield the relevant entries of a directory.

        If a tag occurs twice, the first one counts, as in libtiff.
        """
        (num_entries,) = struct.unpack_from(self.order + "H", self.data, place)
        self._spend(2 + 12 * num_entries)
        seen = set()
        for at in range(place + 2, place + 2 + 12 * num_entries, 12):
            tag, kind, num_values = struct.unpack_from(self.order + "HHI", self.data, at)
            if tag not in _TAGS or tag in seen or kind not in _LETTERS:
                continue
            seen.add(tag)
            position, letter = at + 8, _LETTERS[kind]
            if num_values * struct.calcsize(letter) > 4:
                (position,) = struct.unpack_from(self.order + "I", self.data, position)
            yield _Entry(tag, letter, num_values, position)

    def tags(self, place: int) -> Tags:
        """Return the values of a directory, by tag."""
        tags = Tags()
        for entry in self.entries(place):
            if entry.tag == DESCRIPTION:
                continue
            num_bytes = entry.num_values * struct.calcsize(entry.letter)
            if entry.position + num_bytes > len(self.data):
                raise struct.error
            if entry.num_values > self._max_values:
                raise DecodeError(
                    f"TIFF with {entry.num_values:,} values of tag {entry.tag}; at most "
                    f"{self._max_values:,} are read (limit tiff-pieces).",
                    code="too_large",
                )
            self._spend(num_bytes)
            values = f"{self.order}{entry.num_values}{entry.letter}"
            tags[entry.tag] = struct.unpack_from(values, self.data, entry.position)
        return tags

    def _spend(self, num_bytes: int) -> None:
        self._left_bytes -= num_bytes
        if self._left_bytes < 0:
            raise DecodeError(
                "TIFF whose directories hold more values than the file has bytes: they overlap."
            )


def first(tags: Tags, tag: int, default: int) -> int:
    """The first value of a tag; `default` if the tag is absent."""
    return tags[tag][0] if tags.get(tag) else default


def read_page(data: memoryview, limits: Limits = LIMITS) -> Tags:
    """Read the tags of the page that is the image: where and how its pixels are stored.

    Pages that declare themselves a smaller copy or a mask of another page are ignored.

    Raises:
        DecodeError: Code ``multiple_images`` if there are several images, ``too_large`` if a tag
            has more values than `limits` allows.
        struct.error: The file ends before what is needed.
    """
    _, tags = _image_page(_Directories(data, limits))
    return tags


def as_read(data: memoryview, limits: Limits = LIMITS) -> bytes | memoryview:
    """Return the image in a form that OpenCV reads correctly.

    Returns:
        A copy that begins with the page that is the image, without orientation and with
        transparency ignored; the data itself if nothing needs to change.
    """
    directories = _Directories(data, limits)
    order = directories.order
    place, _ = _image_page(directories)
    changes: list[tuple[str, int, int]] = []
    if place != directories.first_place():
        changes.append((order + "I", 4, place))
    for entry in directories.entries(place):
        if entry.tag == ORIENTATION and entry.num_values:
            changes.append((order + entry.letter, entry.position, 1))
        if entry.tag == EXTRA_SAMPLES and entry.num_values == 1:
            (kind,) = struct.unpack_from(order + entry.letter, data, entry.position)
            if kind == BESIDE:
                changes.append((order + entry.letter, entry.position, _UNSPECIFIED))
    if not changes:
        return data
    copy = bytearray(data)
    for letter, position, value in changes:
        struct.pack_into(letter, copy, position, value)
    return bytes(copy)


def check_readable(tags: Tags) -> None:
    """Refuse a TIFF that OpenCV misreads or cannot read, even if it is complete.

    Raises:
        DecodeError: Code ``unsupported_format``.
    """
    depths = tags.get(BITS) or (1,)
    depth, num_channels = depths[0], first(tags, CHANNELS, 1)
    colours = first(tags, PHOTOMETRIC, _BLACK_IS_0)
    is_gray = num_channels == 1 and colours in (_WHITE_IS_0, _BLACK_IS_0)
    if depth > 16 or first(tags, SAMPLE_FORMAT, _WHOLE_NUMBERS) != _WHOLE_NUMBERS:
        raise unsupported(f"a TIFF with {depth} bits per sample that are not integers up to 65,535")
    if first(tags, COMPRESSION, 1) not in COMPRESSIONS:
        raise unsupported(f"a TIFF of compression {first(tags, COMPRESSION, 1)}")
    _check_coding(tags)
    if colours not in _COLOURS:
        raise unsupported(f"a TIFF in an unsupported colour space (photometric {colours})")
    if len(set(depths)) > 1:
        raise unsupported(f"a TIFF with channels of {', '.join(map(str, depths))} bits")
    if not (
        depth == 8
        or (depth in (1, 10, 12, 14) and is_gray)
        or (depth == 4 and colours == _PALETTE)
        or (depth == 16 and (is_gray or colours == _RGB))
    ):
        raise unsupported(
            f"a TIFF with {num_channels} channels of {depth} bits (photometric {colours})"
        )
    if not 1 <= num_channels <= _MOST_CHANNELS:
        raise unsupported(f"a TIFF with {num_channels} channels")
    if depth > 8 and num_channels > 1 and first(tags, PLANES, 1) == SEPARATE_PLANES:
        raise unsupported(f"a TIFF of {depth} bits per sample with its colours in separate planes")
    if is_multiplied(tags) and num_channels != _RGBA_CHANNELS:
        raise unsupported("a TIFF with gray premultiplied by transparency")


def _check_coding(tags: Tags) -> None:
    """Refuse encodings that readers decode differently, each without an error."""
    compression, predictor = first(tags, COMPRESSION, _NOT_COMPRESSED), first(tags, PREDICTOR, 1)
    allowed = (_NO_PREDICTOR, _DIFFERENCES) if compression in _PREDICTED else (_NO_PREDICTOR,)
    if predictor not in allowed:
        raise unsupported(
            f"a TIFF of compression {COMPRESSIONS[compression]} with predictor {predictor}, which "
            "programs read differently"
        )
    if first(tags, FILL_ORDER, 1) != 1 and compression != _NOT_COMPRESSED:
        raise unsupported("a compressed TIFF whose bits are in reversed order (FillOrder 2)")


def is_multiplied(tags: Tags) -> bool:
    """Whether colours are stored premultiplied by the transparency of their pixel."""
    return first(tags, EXTRA_SAMPLES, _UNSPECIFIED) == MULTIPLIED


def is_white_0(tags: Tags) -> bool:
    """Whether the value 0 is white."""
    return first(tags, PHOTOMETRIC, _BLACK_IS_0) == _WHITE_IS_0


def _image_page(directories: _Directories) -> tuple[int, Tags]:
    """Return the position and the tags of the page that is the image."""
    pages = list(itertools.islice(_pages(directories), _MOST_PAGES))
    full = [page for page in pages if not _is_copy(page[1])] if len(pages) > 1 else pages
    if len(full) != 1 or len(pages) == _MOST_PAGES:
        sizes = ", ".join(_size(tags) for _, tags in pages[:_SHOWN])
        more = ", …" if len(pages) > _SHOWN else ""
        raise DecodeError(
            f"TIFF of {len(pages)} pages ({sizes}{more}), of which {len(full)} are images in full "
            "resolution; only one per file is supported. Write each page to a separate file.",
            code="multiple_images",
        )
    ((place, tags),) = full
    num_images = max(first(tags, DEPTH, 1), _num_described(directories, place))
    if num_images > 1:
        raise DecodeError(
            f"TIFF of {num_images} images of {_size(tags)} in one page; only one per file is "
            "supported. Write each to a separate file.",
            code="multiple_images",
        )
    for subdirectory in tags.get(SUBDIRECTORIES, ())[:_MOST_SUBDIRECTORIES]:
        other = directories.tags(subdirectory)
        if _num_px(other) > _num_px(tags):
            raise DecodeError(
                f"TIFF with a page of {_size(tags)} pixels that is a smaller copy of an image of "
                f"{_size(other)} in a subdirectory, which is not supported. Write that image to a "
                "separate file.",
                code="multiple_images",
            )
    return place, tags


def _pages(directories: _Directories) -> Iterator[tuple[int, Tags]]:
    """Yield the position and the tags of each page."""
    seen, place = set[int](), directories.first_place()
    if place == 0:
        raise DecodeError("TIFF without a page.")
    while place:
        if place in seen:
            raise DecodeError("TIFF with a loop in its list of pages.")
        seen.add(place)
        yield place, directories.tags(place)
        place = directories.next_place(place)


def _is_copy(tags: Tags) -> bool:
    """Whether a page declares itself a smaller copy or a mask of another page."""
    is_reduced = first(tags, OLD_KIND, 1) == _OLD_REDUCED
    return is_reduced or bool(first(tags, KIND, 0) & (_REDUCED | _MASK))


def _num_described(directories: _Directories, place: int) -> int:
    """Return how many images ImageJ states for a page, in a file with a single page."""
    data = directories.data
    for entry in directories.entries(place):
        if entry.tag == DESCRIPTION:
            text = bytes(data[entry.position : entry.position + min(entry.num_values, 400)])
            found = _IMAGEJ.match(text)
            return int(found[1]) if found else 1
    return 1


def _num_px(tags: Tags) -> int:
    return first(tags, WIDTH, 0) * first(tags, HEIGHT, 0)


def _size(tags: Tags) -> str:
    return f"{first(tags, WIDTH, 0)}×{first(tags, HEIGHT, 0)}"
