"""From a trained network to the ONNX graph of the contract, and the proof that they agree."""

from __future__ import annotations

import io
import warnings
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
import torch

from steel_batch.engine.contract import COUNT, IMAGE, MASK, PEAK
from steel_batch.errors import EngineError
from training.model import ContractGraph

OPSET: Final = 17
"""What TensorRT 8.5 parses and every later one too."""
LOGIT_BAND: Final = 1e-2
"""Pixels whose logit is nearer to the threshold than this may differ between runtimes."""


def export_graph(graph: ContractGraph, height: int, width: int) -> bytes:
    """The contract graph as self-contained ONNX, with a free batch dimension.

    Raises:
        EngineError: The exported file is no valid ONNX.
    """
    sink = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The TorchScript exporter is the one whose Resize TensorRT 8.5 parses.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            (torch.zeros(2, 1, height, width, dtype=torch.uint8),),
            sink,  # type: ignore[arg-type] # the TorchScript exporter writes to streams
            opset_version=OPSET,
            dynamo=False,
            input_names=[IMAGE],
            output_names=[MASK, PEAK, COUNT],
            dynamic_axes={name: {0: "N"} for name in (IMAGE, MASK, PEAK, COUNT)},
        )
    model = onnx.load_model_from_string(sink.getvalue())
    _state_shapes(model, height, width)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise EngineError(f"the exported graph is not valid ONNX: {error}") from error
    return bytes(model.SerializeToString())


def _state_shapes(model: onnx.ModelProto, height: int, width: int) -> None:
    """Write the shapes that the contract fixes where the exporter left symbols."""
    for tensor in model.graph.output:
        dims = tensor.type.tensor_type.shape.dim
        if tensor.name == MASK:
            for dim, size in zip(dims[1:], (1, height, width), strict=True):
                dim.dim_value = size


def check_export(graph: ContractGraph, onnx_bytes: bytes, images_N1HW: np.ndarray) -> int:
    """Compare PyTorch with ONNX Runtime on real images.

    Returns:
        How many pixels differ, all of them within `LOGIT_BAND` of the threshold.

    Raises:
        EngineError: A pixel farther from the threshold differs, or a peak does.
    """
    session = ort.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    num_differing = 0
    for image in images_N1HW:
        batch = image[None]
        mask, peak, _ = session.run([MASK, PEAK, COUNT], {IMAGE: batch})
        with torch.no_grad():
            logits = graph.logits(torch.from_numpy(batch)).numpy()
            expected, expected_peak, _ = (t.numpy() for t in graph(torch.from_numpy(batch)))
        limits = graph.limits.numpy()
        near = (np.abs(logits - limits) < LOGIT_BAND).any(axis=1, keepdims=True)
        differs = mask != expected
        if (differs & ~near).any():
            raise EngineError(
                f"ONNX Runtime and PyTorch disagree on {int((differs & ~near).sum())} pixels that "
                f"are farther than {LOGIT_BAND} from the threshold: the export is not usable."
            )
        if np.abs(peak - expected_peak).max() > 1e-3:
            raise EngineError("ONNX Runtime and PyTorch disagree on peaks by more than 0.001.")
        num_differing += int(differs.sum())
    return num_differing
