"""Engines on the CPU, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from steel_batch.engine.contract import Figures, Provenance
from steel_batch.engine.ring import SlotRing
from steel_batch.images.appearance import row_step
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK, Card
from steel_batch.registry.graph import check_values, open_session

SESSIONS_BYTES: Final = 32 << 20
"""Of graphs in an actor's sessions. The threads of one session share the pool that its tensors are
allocated from, which costs a small network 1 to 4 %, so each thread has a session of its own as far
as this goes. A large network gains nothing by that, and each session has a copy of its weights."""


class OrtRuntime:
    """An engine on the CPU; see `contract.Runtime`.

    Every thread infers a batch of its own: cores that share a layer wait for the slowest at its
    end.

    Args:
        graph: ONNX bytes.
        card: The engine's card.
        precision: Precision of the graph.
        batch_size: Images of one `infer`.
        num_threads: Batches in flight, each inferred by the thread that holds it.

    Raises:
        EngineError: The graph cannot be loaded or does not fulfil the contract.
    """

    def __init__(
        self, graph: bytes, card: Card, *, precision: str, batch_size: int, num_threads: int
    ) -> None:
        num_sessions = min(num_threads, max(1, SESSIONS_BYTES // max(1, len(graph))))
        sessions = [open_session(graph, card, precision=precision) for _ in range(num_sessions)]
        self._ring = SlotRing(
            [
                OrtSlot(sessions[i % num_sessions], card, precision, batch_size)
                for i in range(num_threads)
            ]
        )
        self._batch_size = batch_size
        self._description = (
            f"onnxruntime {ort.__version__} cpu {precision} batch {batch_size} "
            f"threads {num_threads}"
        )
        self._provenance = Provenance(
            runtime="onnxruntime",
            runtime_version=ort.__version__,
            precision=precision,
            device="cpu",
        )

    @property
    def batch_size(self) -> int:
        """Images of one `infer`."""
        return self._batch_size

    @property
    def num_slots(self) -> int:
        """Batches in flight."""
        return self._ring.num_slots

    @property
    def description(self) -> str:
        """Runtime, version, device and precision."""
        return self._description

    @property
    def provenance(self) -> Provenance:
        """What produces the rows of its batches."""
        return self._provenance

    def acquire(self) -> AbstractContextManager[OrtSlot]:
        """Wait for a free slot."""
        return self._ring.acquire()

    def register(self, memory: npt.NDArray[np.uint8]) -> None:
        """Do nothing: masks are in this process's memory already."""

    def close(self) -> None:
        """Wait for the batches in flight; a session is freed with its last slot."""
        self._ring.close()


class OrtSlot:
    """Buffers of one batch on the CPU; see `contract.Slot`."""

    def __init__(
        self, session: ort.InferenceSession, card: Card, precision: str, batch_size: int
    ) -> None:
        self._session = session
        self._engine, self._precision = card.name, precision
        self._input = np.zeros((batch_size, 1, card.height, card.width), np.uint8)
        self._mask_NHW = np.zeros((0, card.height, card.width), np.uint8)

    @property
    def image_NHW(self) -> npt.NDArray[np.uint8]:
        """Where to write the batch's pixels."""
        return self._input[:, 0]

    @property
    def jpeg_decoder(self) -> None:
        """None: JPEGs are decoded on the CPU."""

    def load_jpegs(self, jpegs: Mapping[int, Any]) -> frozenset[int]:  # noqa: ARG002
        """Load nothing: pixels come from the CPU."""
        return frozenset()

    def infer(self, num_images: int) -> Figures:
        """Run the graph on the first images.

        Raises:
            EngineError: An answer breaks the contract.
        """
        mask, peak, count = self._session.run(
            [MASK, PEAK, COUNT], {IMAGE: self._input[:num_images]}
        )
        self._mask_NHW = mask[:, 0]
        check_values(self._mask_NHW, peak, count, engine=self._engine, precision=self._precision)
        return Figures(peak_NC=peak, count_NC=count)

    def copy_out(
        self,
        places: Sequence[int],
        mask_NHW: npt.NDArray[np.uint8],
        sample_NHW: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Copy masks and rows of the last batch's images."""
        if places and places[-1] >= len(self._mask_NHW):
            raise IndexError(f"mask {places[-1]} of a batch of {len(self._mask_NHW)}")
        # With another mode, NumPy would write to memory of its own first.
        np.take(self._mask_NHW, places, axis=0, out=mask_NHW, mode="clip")
        if sample_NHW is not None:
            step = row_step(self._input.shape[2])
            sample_NHW[:] = self.image_NHW[: len(sample_NHW), ::step]
