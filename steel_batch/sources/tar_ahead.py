"""Reads the chain of an archive's headers in several stretches at once.

A header states where the next one is, so a chain can only be followed from its beginning. But where
any header of it is found, everything behind that header is known to follow. So further stretches of
a large archive are read in the meantime, each from the first block that looks like a header. The
members of a stretch count only from where the chain arrives at one of them, with the same global
headers as were assumed there. A stretch that the chain never meets is ignored: it began within a
member that is itself a tar. So the members, their order and all errors are those of the chain.
"""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Final

from steel_batch.errors import LakeError
from steel_batch.sources.tar_headers import DAMAGE, Headers, Member
from steel_batch.sources.tar_stream import BLOCK_BYTES, READ_THROUGH_BYTES, HeaderStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much of an archive is read at once."""

    stretch_bytes: int = 16 << 20
    """Length of a stretch, within the following limits."""
    fewest_members: int = 256
    """About how many members a stretch has at least: finding the first one costs some requests."""
    most_members: int = 2048
    """About how many it has at most, as they are held until the chain arrives."""
    first_members: int = 16
    """After so many members, their average size decides the length of a stretch."""
    most_stretches: int = 96
    """How many are read or held at once: half as many where members are small, as then each has a
    window of megabytes."""


READ_AHEAD: Final = Pace()
_MAX_MISSES: Final = 4
"""After this many stretches in a row that the chain did not meet, no more are read."""
_SEARCHED: Final = 16
"""This part of a stretch is searched for its first header."""

OpenStream = Callable[[int | None], HeaderStream]
"""Opens the file once more, to be read up to a position."""


class Chain:
    """The members of one archive, in order; iterate only once.

    Args:
        headers: At the archive's beginning.
        ahead: What is read ahead of it; None reads one header after the other.
    """

    def __init__(self, headers: Headers, ahead: Ahead | None) -> None:
        self._headers, self._ahead = headers, ahead

    @property
    def position(self) -> int:
        """Where the last member ends."""
        return self._headers.position

    def __iter__(self) -> Iterator[Member | Exception]:
        """Yield each member, or why it is refused; the archive cannot be read on behind it.

        Raises:
            tarfile.TarError: The next header is damaged.
        """
        while True:
            met = None if self._ahead is None else self._ahead.meet(self._headers)
            if met is None:
                info = self._headers.next_info()
                if info is None:
                    return
                yield _checked(self._headers, info)
                continue
            stretch, first = met
            self._headers = stretch.headers
            for found in stretch.found[first:]:
                yield found.member
            if stretch.failure is not None:
                raise stretch.failure
            if stretch.is_at_end:
                return


def _checked(headers: Headers, info: tarfile.TarInfo) -> Member | Exception:
    try:
        return headers.member(info)
    except Exception as error:  # noqa: BLE001 - raised by who counts the members
        return error


@dataclass(frozen=True, slots=True)
class _Found:
    pax_headers: dict[str, str]
    """The global headers before it."""
    member: Member | Exception


class _Stretch:
    """Members from some header on.

    Args:
        headers: At the first one.
    """

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.found: list[_Found] = []
        self.failure: BaseException | None = None
        """Why the header behind the last member cannot be read."""
        self.is_at_end = False
        """Whether the archive ends behind the last member."""
        self._places: dict[int, int] = {}

    def read(self, until: int, most_members: int, stop: Event) -> None:
        """Read the members that begin before `until`."""
        headers = self.headers
        while headers.position < until and len(self.found) < most_members and not stop.is_set():
            position, pax_headers = headers.position, headers.pax_headers
            try:
                info = headers.next_info()
            except BaseException as error:  # noqa: BLE001 - raised if the chain comes here
                self.failure = error
                return
            if info is None:
                self.is_at_end = True
                return
            self._places[position] = len(self.found)
            self.found.append(_Found(pax_headers, _checked(headers, info)))
            if isinstance(self.found[-1].member, Exception):
                return

    def place_of(self, headers: Headers) -> int | None:
        """The place of the member that follows in a chain; None if it is none of these."""
        place = self._places.get(headers.position)
        if place is None or self.found[place].pax_headers != headers.pax_headers:
            return None
        return place


class Ahead:
    """The stretches of a file that are read ahead of the chain of its headers.

    Args:
        open_stream: Called in other threads.
        size_bytes: The file's size.
        pace: How much is read at once.
    """

    def __init__(self, open_stream: OpenStream, size_bytes: int, pace: Pace) -> None:
        self._open_stream, self._size_bytes, self._pace = open_stream, size_bytes, pace
        self._num_members = 0
        self._reading: dict[int, Future[_Stretch | None]] = {}
        self._stop = Event()
        self._origin = self._length = self._num_stretches = 0
        self._pax_headers: dict[str, str] = {}
        self._number, self._next = 0, 1
        self._has_met, self._num_misses = True, 0

    def meet(self, headers: Headers) -> tuple[_Stretch, int] | None:
        """The stretch that contains the member that follows in the chain, and its place there."""
        if self._stop.is_set():
            return None
        if not self._length:
            self._num_members += 1
            if self._num_members <= self._pace.first_members:
                return None
            self._divide(headers)
        number = (headers.position - self._origin) // self._length
        if number != self._number:
            self._num_misses = 0 if self._has_met else self._num_misses + 1
            self._number, self._has_met = number, number == 0
            if self._num_misses > _MAX_MISSES:
                self.close()
                return None
        self._read_to(number + self._num_stretches)
        reading = self._reading.get(number)
        stretch = None if reading is None else reading.result()
        place = None if stretch is None else stretch.place_of(headers)
        if stretch is None or place is None:
            return None
        self._has_met = True
        return stretch, place

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        for reading in self._reading.values():
            reading.cancel()
        self._reading.clear()

    def _divide(self, headers: Headers) -> None:
        """Decide where the stretches begin; the chain itself reads the first one."""
        pace, self._origin, self._pax_headers = self._pace, headers.position, headers.pax_headers
        member_bytes = max(BLOCK_BYTES, self._origin // pace.first_members)
        is_small = member_bytes <= READ_THROUGH_BYTES
        self._num_stretches = pace.most_stretches // 2 if is_small else pace.most_stretches
        num_members = max(pace.stretch_bytes // member_bytes, pace.fewest_members)
        self._length = min(num_members, pace.most_members) * member_bytes
        self._length -= self._length % BLOCK_BYTES

    def _read_to(self, last: int) -> None:
        for passed in [number for number in self._reading if number < self._number]:
            self._reading.pop(passed).cancel()
        self._next = max(self._next, self._number + 1)
        while self._next <= last and self._origin + self._next * self._length < self._size_bytes:
            start = self._origin + self._next * self._length
            self._reading[self._next] = _pool(os.getpid()).submit(self._read, start)
            self._next += 1

    def _read(self, start: int) -> _Stretch | None:
        """Read one stretch; None if no header is found."""
        until = min(start + self._length, self._size_bytes)
        try:
            stream = self._open_stream(until)
            begin = stream.find_header(start, start + max(BLOCK_BYTES, self._length // _SEARCHED))
            if begin is None or self._stop.is_set():
                return None
            stretch = _Stretch(Headers(stream, begin, self._size_bytes, self._pax_headers))
        except (LakeError, *DAMAGE):
            return None  # if it concerns the chain, the chain finds it
        stretch.read(until, 2 * self._pace.most_members, self._stop)
        stream.release()
        return stretch


@functools.lru_cache(maxsize=1)
def _pool(_pid: int) -> ThreadPoolExecutor:
    """This process's threads for stretches of all files."""
    return ThreadPoolExecutor(READ_AHEAD.most_stretches, thread_name_prefix="tar-stretch")
