"""Loads an ONNX graph on the CPU and checks whether it fulfils the engine's contract.

Names, types and shapes are checked when it is loaded; values when it is registered, on patterns,
and in every batch that the CPU infers: which images a graph marks is not known before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from steel_batch.errors import EngineError
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK, Card
from steel_batch.registry.few_channels import resized_without_blocks
from steel_batch.registry.self_contained import check_self_contained

_TYPES: Final = {
    IMAGE: "tensor(uint8)",
    MASK: "tensor(uint8)",
    PEAK: "tensor(float)",
    COUNT: "tensor(float)",
}
_BLOCKS_PX: Final = (1, 8, 64)
"""Sizes of the squares of random gray in the patterns: networks mark different ones."""
_ROUNDING: Final = 1e-3


def open_session(graph: bytes, card: Card, *, precision: str) -> ort.InferenceSession:
    """Load a graph on the CPU and compare it with the contract and the card.

    One Resize may be changed to one with the same result that takes less time (`few_channels`).

    Args:
        graph: ONNX bytes.
        card: The engine's card.
        precision: Precision of the graph, for messages.

    Returns:
        A session that uses only the calling thread for each run.

    Raises:
        EngineError: It cannot be loaded, or its tensors differ; the message names each one.
    """
    check_self_contained(graph, name=f"the {precision} graph of engine {card.name}")
    if min(card.height, card.width) > 1:
        graph = resized_without_blocks(graph, num_classes=len(card.classes))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # It would plan the memory of a batch in the first run and allocate it in the second, which is
    # no faster and leaves what the first one had used: 80 MB per thread with the demo engine.
    options.enable_mem_pattern = False
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise EngineError(
            f"engine {card.name} ({precision}) cannot be loaded by ONNX Runtime "
            f"{ort.__version__}: {error}"
        ) from error
    _check_graph(session, card, precision)
    return session


def _check_graph(session: ort.InferenceSession, card: Card, precision: str) -> None:
    num_classes = len(card.classes)
    shapes = {
        IMAGE: (1, card.height, card.width),
        MASK: (1, card.height, card.width),
        PEAK: (num_classes,),
        COUNT: (num_classes,),
    }
    tensors = {t.name: t for t in (*session.get_inputs(), *session.get_outputs())}
    wrong = []
    for name, kind in _TYPES.items():
        tensor = tensors.pop(name, None)
        if tensor is None:
            wrong.append(f"{name} is missing")
        elif tensor.type != kind:
            wrong.append(f"{name} is {tensor.type}, not {kind}")
        elif tuple(tensor.shape[1:]) != shapes[name]:
            wrong.append(f"{name} is N×{tensor.shape[1:]}, not N×{list(shapes[name])}")
        elif isinstance(tensor.shape[0], int):
            wrong.append(f"{name} has a fixed batch of {tensor.shape[0]}")
    wrong += [f"{name} is not in the contract" for name in tensors]
    if wrong:
        raise _broken(card.name, precision, "; ".join(wrong))


def check_on_patterns(session: ort.InferenceSession, card: Card, *, precision: str) -> None:
    """Infer patterns of random gray and check what the graph answers, each count too.

    Raises:
        EngineError: It cannot be run, or an answer breaks the contract.
    """
    for image_HW in _patterns(card.height, card.width):
        try:
            mask, peak_NC, count_NC = session.run(
                [MASK, PEAK, COUNT], {IMAGE: image_HW[None, None]}
            )
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise EngineError(
                f"engine {card.name} ({precision}) cannot be run by ONNX Runtime "
                f"{ort.__version__}: {error}"
            ) from error
        check_values(mask[:, 0], peak_NC, count_NC, engine=card.name, precision=precision)
        for c, count in enumerate(count_NC[0]):
            num_px = np.count_nonzero(mask & (1 << c))
            if np.isfinite(peak_NC).all() and not np.isclose(count, num_px, rtol=_ROUNDING, atol=0):
                what = f"count of class {c + 1} is {count:g}, but its mask has {num_px} pixels"
                raise _broken(card.name, precision, what)


def check_values(
    mask_NHW: npt.NDArray[np.uint8],
    peak_NC: npt.NDArray[np.float32],
    count_NC: npt.NDArray[np.float32],
    *,
    engine: str,
    precision: str,
) -> None:
    """Check what a graph answered for a batch, as far as rows depend on it.

    That a count is 0 exactly if the class has no pixels, that no pixel has a bit of an unknown
    class, and that peaks are probabilities. Images with a peak that is NaN or infinite are not
    checked: they are quarantined. Takes 0.01 ms for an image of 256×1600.

    Raises:
        EngineError: An answer breaks the contract.
    """
    num_images, height, width = mask_NHW.shape
    num_classes = peak_NC.shape[1]
    marked_N = np.bitwise_or.reduce(mask_NHW.reshape(num_images, height * width), axis=1)
    counted_N = (count_NC > 0) @ (1 << np.arange(num_classes))
    is_number_N = np.isfinite(peak_NC).all(axis=1)
    for n in np.flatnonzero(is_number_N & (marked_N != counted_N)).tolist():
        in_mask, in_count = _classes(int(marked_N[n])), _classes(int(counted_N[n]))
        what = f"mask has pixels of {in_mask}, count has pixels of {in_count}"
        raise _broken(engine, precision, f"{what}; there are {num_classes} classes")
    is_share_N = (np.abs(peak_NC - 0.5) <= 0.5 + _ROUNDING).all(axis=1)
    for n in np.flatnonzero(is_number_N & ~is_share_N).tolist():
        peaks = ", ".join(f"{peak:g}" for peak in peak_NC[n])
        raise _broken(engine, precision, f"peaks are {peaks}, not probabilities of 0 to 1")


def _patterns(height: int, width: int) -> Iterator[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    for block_px in _BLOCKS_PX:
        size = (-(-height // block_px), -(-width // block_px))
        gray = random.integers(0, 256, size, np.uint8)
        yield gray.repeat(block_px, axis=0).repeat(block_px, axis=1)[:height, :width]


def _classes(bits: int) -> str:
    return " and ".join(f"class {c + 1}" for c in range(8) if bits >> c & 1) or "no class"


def _broken(engine: str, precision: str, what: str) -> EngineError:
    return EngineError(
        f"the {precision} graph of engine {engine} does not fulfil the engine's contract: {what}. "
        "Export it with training/export.py."
    )
