"""Describes the masks of a batch, here or in a process of its own.

An actor on a GPU has much to say to it in small calls, and each waits for the interpreter's lock
where other threads describe masks. So there the masks are described by child processes: one gets
them in memory that it shares with the actor, and what is to be done with them on its standard
input; its answer on standard output is an Arrow stream. Nothing is unpickled. A child ends when its
standard input does, so also with an actor that is killed.

Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch.errors import ClusterError
from steel_batch.images.decode import mask_to_source
from steel_batch.images.isolate import start_child
from steel_batch.masks.defects import describe_defects
from steel_batch.registry.card import PostProcess

Masks = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

_EMPTY_HW: Final = np.zeros((1, 1), np.uint8)
"""Stands for the mask of an image without pixels, which nobody looks at."""
_REQUEST: Final = struct.Struct("<qq")
_LENGTH: Final = struct.Struct("<q")
_STARTS: Final = 2


class Describer(Protocol):
    """One batch's worth of masks and what is to be said of them. One thread at a time uses it."""

    @property
    def mask_NHW(self) -> Masks:
        """Where the masks that have pixels go, one after the other."""

    def describe(
        self, marked: Sequence[int], sizes: npt.NDArray[np.int32], peak_NC: Scores, count_NC: Scores
    ) -> pa.ListArray:
        """The column ``defects`` of a batch.

        Args:
            marked: The images whose masks are in `mask_NHW`.
            sizes: Of their sources, height and width.
            peak_NC: Highest probability of each image and class.
            count_NC: Pixels of each image and class.
        """

    def close(self) -> None:
        """Free what it holds."""


class LocalDescriber:
    """Describes masks in the thread that asks."""

    def __init__(self, shape_NHW: tuple[int, int, int], post_process: PostProcess) -> None:
        self._mask_NHW = np.empty(shape_NHW, np.uint8)
        self._post_process = post_process

    @property
    def mask_NHW(self) -> Masks:
        """See `Describer`."""
        return self._mask_NHW

    def describe(
        self, marked: Sequence[int], sizes: npt.NDArray[np.int32], peak_NC: Scores, count_NC: Scores
    ) -> pa.ListArray:
        """See `Describer`."""
        return _describe(self._mask_NHW, marked, sizes, peak_NC, count_NC, self._post_process)

    def close(self) -> None:
        """Nothing to free."""


class ChildDescriber:
    """Describes masks in a child process.

    Args:
        shape_NHW: Of a batch.
        num_classes: Of its scores.
        post_process: The card's.

    Raises:
        ClusterError: A process cannot be started.
    """

    def __init__(
        self, shape_NHW: tuple[int, int, int], num_classes: int, post_process: PostProcess
    ) -> None:
        self._child: Any = None
        self._post_process = post_process
        self._file = os.memfd_create("masks")
        os.ftruncate(self._file, _Shared.num_bytes(shape_NHW, num_classes))
        self._shared = _Shared(self._file, shape_NHW, num_classes)
        try:
            self._start()
        except ClusterError:
            self.close()
            raise

    @property
    def mask_NHW(self) -> Masks:
        """See `Describer`."""
        return self._shared.mask_NHW

    def describe(
        self, marked: Sequence[int], sizes: npt.NDArray[np.int32], peak_NC: Scores, count_NC: Scores
    ) -> pa.ListArray:
        """See `Describer`.

        Raises:
            ClusterError: The process ended, and so did another one.
        """
        num, shared = len(peak_NC), self._shared
        shared.marked[: len(marked)] = marked
        shared.sizes[: len(marked)] = sizes
        shared.peak_NC[:num], shared.count_NC[:num] = peak_NC, count_NC
        for _ in range(_STARTS):
            answer = self._ask(_REQUEST.pack(num, len(marked)))
            if answer is not None:
                return pa.ipc.open_stream(answer).read_all()[0].combine_chunks()
            end = self._stop()
            self._start()
        raise ClusterError(
            f"a process that describes masks ended {_STARTS} times (exit {end}): look for memory "
            "or a limit of processes that is used up."
        )

    def close(self) -> None:
        """End the process; idempotent."""
        self._stop()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _start(self) -> None:
        shape = [*self._shared.mask_NHW.shape, self._shared.peak_NC.shape[1]]
        arguments = [str(self._file), json.dumps(shape), json.dumps(asdict(self._post_process))]
        self._child = start_child(
            "steel_batch.scoring.describer", *arguments, pass_fds=[self._file]
        )

    def _ask(self, request: bytes) -> bytes | None:
        """The child's answer; None if it is no more."""
        child = self._child
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except BrokenPipeError:
            return None
        head = child.stdout.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        answer = child.stdout.read(length)
        return answer if len(answer) == length else None

    def _stop(self) -> int | None:
        """End the child; its exit code."""
        child, self._child = self._child, None
        if child is None:
            return None
        child.kill()  # it holds nothing that could be lost
        child.communicate()
        return int(child.returncode)


class _Shared:
    """What both sides see: masks, and what is known of them.

    Args:
        file: Of the memory.
        shape_NHW: Of the masks.
        num_classes: Of the scores.
    """

    def __init__(self, file: int, shape_NHW: tuple[int, int, int], num_classes: int) -> None:
        memory = mmap.mmap(file, self.num_bytes(shape_NHW, num_classes))
        num, position = shape_NHW[0], 0

        def take(dtype: Any, *shape: int) -> npt.NDArray[Any]:
            nonlocal position
            array = np.frombuffer(memory, dtype, int(np.prod(shape)), position).reshape(shape)
            position += array.nbytes
            return array

        self.peak_NC: Scores = take(np.float32, num, num_classes)
        self.count_NC: Scores = take(np.float32, num, num_classes)
        self.marked: npt.NDArray[np.int32] = take(np.int32, num)
        self.sizes: npt.NDArray[np.int32] = take(np.int32, num, 2)
        self.mask_NHW: Masks = take(np.uint8, *shape_NHW)

    @staticmethod
    def num_bytes(shape_NHW: tuple[int, int, int], num_classes: int) -> int:
        """How much memory it takes."""
        num, height, width = shape_NHW
        return num * (8 * num_classes + 12 + height * width)


def _describe(
    mask_NHW: Masks,
    marked: Sequence[int],
    sizes: npt.NDArray[np.int32],
    peak_NC: Scores,
    count_NC: Scores,
    post_process: PostProcess,
) -> pa.ListArray:
    masks_HW = [_EMPTY_HW] * len(peak_NC)
    for image, mask_HW, size in zip(marked, mask_NHW, sizes.tolist(), strict=False):
        masks_HW[image] = mask_to_source(mask_HW, *size)
    engine_px = mask_NHW.shape[1] * mask_NHW.shape[2]
    return describe_defects(masks_HW, peak_NC, count_NC, post_process, engine_px=engine_px)


def _serve(arguments: Sequence[str], source: BinaryIO, sink: BinaryIO) -> None:
    file, shape, settings = map(json.loads, arguments)
    *shape_NHW, num_classes = shape
    shared, post_process = _Shared(file, tuple(shape_NHW), num_classes), PostProcess(**settings)
    while request := source.read(_REQUEST.size):
        num, num_marked = _REQUEST.unpack(request)
        defects = _describe(
            shared.mask_NHW,
            shared.marked[:num_marked].tolist(),
            shared.sizes[:num_marked],
            shared.peak_NC[:num],
            shared.count_NC[:num],
            post_process,
        )
        table = pa.table([defects], names=["defects"])
        answer = pa.BufferOutputStream()
        with pa.ipc.new_stream(answer, table.schema) as writer:
            writer.write_table(table)
        content = answer.getvalue()
        sink.write(_LENGTH.pack(content.size))
        sink.write(content)
        sink.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the actor says when it is over
    _serve(sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)
