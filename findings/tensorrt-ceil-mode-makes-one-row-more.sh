#!/usr/bin/env bash
# TensorRT: with ceil_mode, a padded pool makes one row and column more than PyTorch.
#
# PyTorch and ONNX Runtime drop a last window that would begin in the padding at the end. TensorRT's
# parser and ONNX's shape inference follow the formula of the specification and keep it. A network
# exported with MaxPool2d(2, stride=2, padding=1, ceil_mode=True) has 4 x 4 values of a 7 x 7 map in
# PyTorch and 5 x 5 in its plan, and all that follows is larger too. It depends on the size: 6 and 8
# agree. TensorRT RTX parses without a GPU, so this can be seen before a plan is built.
#
# Seen on 2026-11-30 with tensorrt-rtx-cu13 1.7.1.116, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6,
# Python 3.11; MaxPool 2 x 2, stride 2, padding 1:
#   6 x 6: ONNX Runtime 4 x 4, inferred 4 x 4, TensorRT 4 x 4
#   7 x 7: ONNX Runtime 4 x 4, inferred 5 x 5, TensorRT 5 x 5
#   8 x 8: ONNX Runtime 5 x 5, inferred 5 x 5, TensorRT 5 x 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 \
  onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import tensorrt_rtx_libs  # noqa: F401 - the bindings need its libraries
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
onnxruntime.set_default_logger_severity(4)


def heights(size):
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], pads=[1] * 4, ceil_mode=1
    )
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, size, size]), ("y", None))
    ]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ran = session.run(None, {"x": np.zeros((1, 1, size, size), np.float32)})[0].shape[2]
    output = onnx.shape_inference.infer_shapes(model).graph.output[0]
    inferred = output.type.tensor_type.shape.dim[2].dim_value
    network = builder.create_network()
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    return ran, inferred, network.get_output(0).shape[2]


found = []
for size in (6, 7, 8):
    ran, inferred, parsed = heights(size)
    print(
        f"{size} x {size}: ONNX Runtime {ran} x {ran}, inferred {inferred} x {inferred}, "
        f"TensorRT {parsed} x {parsed}"
    )
    found.append((ran, inferred, parsed))
sys.exit(found != [(4, 4, 4), (4, 5, 5), (5, 5, 5)])
PY
"$folder/venv/bin/python" "$folder/show.py"
