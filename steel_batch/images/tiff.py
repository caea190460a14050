"""What a TIFF says of its pages, which of them is the image, and how it has to be given to OpenCV.

OpenCV reads the first page, turns it by its orientation whatever it is told, and multiplies colours
by a transparency that stands beside them. So it is given a copy in which that is not said, and that
begins with the page that is meant.

Source: TIFF 6.0, and Adobe's technical notes for subdirectories.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

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
"""Of kinds of values: bytes, text, numbers of 16 and 32 bits, places of directories."""
COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_NOT_COMPRESSED: Final = 1
_PREDICTED: Final = frozenset({5, 8, 32946})
"""Compressions of which every reader undoes a predictor. Of others some do and some do not."""
_NO_PREDICTOR, _DIFFERENCES = 1, 2
SEPARATE_PLANES: Final = 2
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2
_UNSPECIFIED, MULTIPLIED, BESIDE = 0, 1, 2
"""Kinds of a further channel: of transparency, colours are multiplied by it or stand beside it."""
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS: Final = frozenset({_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, YCBCR})
_WHOLE_NUMBERS: Final = 1
_RGBA_CHANNELS = _MOST_CHANNELS = 4
_MOST_SUBDIRECTORIES: Final = 100
_MOST_PAGES: Final = 10_000
_SHOWN: Final = 5
_IMAGEJ: Final = re.compile(rb"ImageJ=[^\0]*?\nimages=(\d{1,9})\n")

Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a directory: its tag, and where its values lie."""

    tag: int
    letter: str
    num_values: int
    position: int


def first(tags: Tags, tag: int, default: int) -> int:
    """The first value of a tag, or what holds where it is left out."""
    return tags[tag][0] if tags.get(tag) else default


def read_page(data: memoryview) -> Tags:
    """What the page that is the image says of where and how its pixels are, by tag.

    Pages that say of themselves that they are smaller copies or masks of another are left out.

    Raises:
        DecodeError: Code ``multiple_images`` where it is not one page that is left.
        struct.error: The file ends before what is needed.
    """
    return _read_tags(data, _image_directory(data))


def as_read(data: memoryview) -> bytes | memoryview:
    """The same image as OpenCV has to be given it.

    Returns:
        A copy that begins with the page that is the image, stands upright and whose colours do not
        get multiplied by transparency; the data itself where it is one.
    """
    order = _order(data)
    place = _image_directory(data)
    changes: list[tuple[str, int, int]] = []
    if place != struct.unpack_from(order + "I", data, 4)[0]:
        changes.append((order + "I", 4, place))
    for entry in _entries(data, place):
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
    """Refuse a TIFF that OpenCV reads wrongly or not at all, however whole it is.

    Raises:
        DecodeError: Code ``unsupported_format``.
    """
    depths = tags.get(BITS) or (1,)
    depth, num_channels = depths[0], first(tags, CHANNELS, 1)
    colours = first(tags, PHOTOMETRIC, _BLACK_IS_0)
    is_gray = num_channels == 1 and colours in (_WHITE_IS_0, _BLACK_IS_0)
    if depth > 16 or first(tags, SAMPLE_FORMAT, _WHOLE_NUMBERS) != _WHOLE_NUMBERS:
        raise unsupported(f"a TIFF of {depth} bits that are no whole numbers up to 65,535")
    if first(tags, COMPRESSION, 1) not in COMPRESSIONS:
        raise unsupported(f"a TIFF of compression {first(tags, COMPRESSION, 1)}")
    _check_coding(tags)
    if colours not in _COLOURS:
        raise unsupported(f"a TIFF of colours that are not read (photometric {colours})")
    if len(set(depths)) > 1:
        raise unsupported(f"a TIFF whose channels have {', '.join(map(str, depths))} bits")
    if not (
        depth == 8
        or (depth in (1, 10, 12, 14) and is_gray)
        or (depth == 4 and colours == _PALETTE)
        or (depth == 16 and (is_gray or colours == _RGB))
    ):
        raise unsupported(
            f"a TIFF of {num_channels} channels of {depth} bits (photometric {colours})"
        )
    if not 1 <= num_channels <= _MOST_CHANNELS:
        raise unsupported(f"a TIFF of {num_channels} channels")
    if depth > 8 and num_channels > 1 and first(tags, PLANES, 1) == SEPARATE_PLANES:
        raise unsupported(
            f"a TIFF of {depth} bits a sample with its colours in planes of their own"
        )
    if is_multiplied(tags) and num_channels != _RGBA_CHANNELS:
        raise unsupported("a TIFF whose gray is multiplied by transparency")


def _check_coding(tags: Tags) -> None:
    """Refuse what readers undo in different ways, each without an error."""
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
    """Whether colours are stored multiplied by the transparency of their pixel."""
    return first(tags, EXTRA_SAMPLES, _UNSPECIFIED) == MULTIPLIED


def is_white_0(tags: Tags) -> bool:
    """Whether greater values are darker."""
    return first(tags, PHOTOMETRIC, _BLACK_IS_0) == _WHITE_IS_0


def _order(data: memoryview) -> str:
    return "<" if data[0] == ord("I") else ">"


def _image_directory(data: memoryview) -> int:
    """Where the directory of the page lies that is the image."""
    pages = list(itertools.islice(_pages(data), _MOST_PAGES))
    full = [page for page in pages if not _is_copy(page[1])] if len(pages) > 1 else pages
    if len(full) != 1 or len(pages) == _MOST_PAGES:
        sizes = ", ".join(_size(tags) for _, tags in pages[:_SHOWN])
        more = ", …" if len(pages) > _SHOWN else ""
        raise DecodeError(
            f"TIFF of {len(pages)} pages ({sizes}{more}), of which {len(full)} are images in full "
            "resolution; one a file is read. Write each page into a file of its own.",
            code="multiple_images",
        )
    ((place, tags),) = full
    num_images = max(first(tags, DEPTH, 1), _num_described(data, place))
    if num_images > 1:
        raise DecodeError(
            f"TIFF of {num_images} images of {_size(tags)} in one page; one a file is read. Write "
            "each into a file of its own.",
            code="multiple_images",
        )
    for subdirectory in tags.get(SUBDIRECTORIES, ())[:_MOST_SUBDIRECTORIES]:
        other = _read_tags(data, subdirectory)
        if _num_px(other) > _num_px(tags):
            raise DecodeError(
                f"TIFF whose page of {_size(tags)} pixels is a smaller copy of an image of "
                f"{_size(other)} in a subdirectory, which is not read. Write that one into a file "
                "of its own.",
                code="multiple_images",
            )
    return place


def _pages(data: memoryview) -> Iterator[tuple[int, Tags]]:
    """Where each page's directory lies, and what it says."""
    order, seen = _order(data), set[int]()
    (place,) = struct.unpack_from(order + "I", data, 4)
    if place == 0:
        raise DecodeError("TIFF without a page.")
    while place:
        if place in seen:
            raise DecodeError("TIFF whose pages go round in a circle.")
        seen.add(place)
        yield place, _read_tags(data, place)
        (num_entries,) = struct.unpack_from(order + "H", data, place)
        (place,) = struct.unpack_from(order + "I", data, place + 2 + 12 * num_entries)


def _is_copy(tags: Tags) -> bool:
    """Whether a page says that it is a smaller copy of another page, or its mask."""
    is_reduced = first(tags, OLD_KIND, 1) == _OLD_REDUCED
    return is_reduced or bool(first(tags, KIND, 0) & (_REDUCED | _MASK))


def _num_described(data: memoryview, place: int) -> int:
    """How many images ImageJ says are in a page's bytes, of a file that states but one page."""
    for entry in _entries(data, place):
        if entry.tag == DESCRIPTION:
            text = bytes(data[entry.position : entry.position + min(entry.num_values, 400)])
            found = _IMAGEJ.match(text)
            return int(found[1]) if found else 1
    return 1


def _num_px(tags: Tags) -> int:
    return first(tags, WIDTH, 0) * first(tags, HEIGHT, 0)


def _size(tags: Tags) -> str:
    return f"{first(tags, WIDTH, 0)}×{first(tags, HEIGHT, 0)}"


def _entries(data: memoryview, place: int) -> Iterator[_Entry]:
    """Of a directory's entries those that matter.

    A tag that comes twice counts where it comes first, as in libtiff.
    """
    order = _order(data)
    (num_entries,) = struct.unpack_from(order + "H", data, place)
    seen = set()
    for at in range(place + 2, place + 2 + 12 * num_entries, 12):
        tag, kind, num_values = struct.unpack_from(order + "HHI", data, at)
        if tag not in _TAGS or tag in seen or kind not in _LETTERS:
            continue
        seen.add(tag)
        position, letter = at + 8, _LETTERS[kind]
        if num_values * struct.calcsize(letter) > 4:
            (position,) = struct.unpack_from(order + "I", data, position)
        yield _Entry(tag, letter, num_values, position)


def _read_tags(data: memoryview, place: int) -> Tags:
    order, tags = _order(data), Tags()
    for entry in _entries(data, place):
        if entry.tag == DESCRIPTION:
            continue
        if entry.position + entry.num_values * struct.calcsize(entry.letter) > len(data):
            raise struct.error
        values = f"{order}{entry.num_values}{entry.letter}"
        tags[entry.tag] = struct.unpack_from(values, data, entry.position)
    return tags
