"""Loads an ONNX graph on the CPU and checks whether it fulfils the engine's contract."""

from __future__ import annotations

from typing import Final

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
        raise EngineError(
            f"the {precision} graph of engine {card.name} does not fulfil the engine's contract: "
            f"{'; '.join(wrong)}. Export it with training/export.py."
        )
