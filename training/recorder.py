"""A GPU step recorded once and replayed: a thousand kernels in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

NUM_FIRST: Final = 3
"""Steps that run normally first, in which libraries choose kernels and allocate memory."""

log = logging.getLogger(__name__)


class Recorder:
    """Runs a step; from the fourth time on by replaying what the GPU did.

    A step that cannot be recorded, because the CPU reads GPU results in it, runs normally each
    time.

    Args:
        step: Takes tensors on the device, always of the same shapes, and returns one. Everything
            else that it reads or writes must keep its address.
        device: The GPU.
    """

    def __init__(self, step: Callable[..., Tensor], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._num_taken = 0
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: tuple[Tensor, ...] = ()
        self._result: Tensor | None = None
        self._can_record = True

    def run(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Run the step.

        Args:
            batch: The input on the CPU, in pinned memory.
        """
        if self._graph is None:
            self._given = tuple(tensor.to(self._device, non_blocking=True) for tensor in batch)
        if self._num_taken == NUM_FIRST and self._can_record:
            self._record()
        self._num_taken += 1
        if self._graph is None or self._result is None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                result = self._step(*self._given)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            return result
        for kept, tensor in zip(self._given, batch, strict=True):
            kept.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._result.clone()

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may pin memory meanwhile, which does not affect the recording.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = self._step(*self._given)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._can_record, self._result = False, None
            log.warning("steps are not recorded, which makes them slower: %s", error)
            return
        self._graph = graph
