#!/usr/bin/env bash
# TensorRT: ConvTranspose ignores output_shape where auto_pad is given too.
#
# ONNX lets a transposed convolution name its output_shape; the padding follows from it, and
# auto_pad says on which side an odd rest goes. TensorRT's parser takes auto_pad first: the output
# has input size times stride, whatever output_shape says, without a message. With auto_pad left
# out, output_shape counts. Decoders that were exported to an odd size, so that a skip connection
# fits, become a row smaller. TensorRT RTX parses without a GPU, so it can be seen before a build.
#
# Seen on 2026-11-30 with tensorrt-rtx-cu13 1.7.1.116, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6,
# Python 3.11; 7 rows, stride 2, output_shape of 15 rows:
#   auto_pad NOTSET:     ONNX Runtime 15, inferred 15, TensorRT 15
#   auto_pad SAME_UPPER: ONNX Runtime 15, inferred 15, TensorRT 14
#   auto_pad SAME_LOWER: ONNX Runtime 15, inferred 15, TensorRT 14
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
from onnx import TensorProto, helper, numpy_helper

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
onnxruntime.set_default_logger_severity(4)


def heights(auto_pad):
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[15, 15], auto_pad=auto_pad
    )
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 2, 7, 7]), ("y", None))
    ]
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], [weights])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ran = session.run(None, {"x": np.zeros((1, 2, 7, 7), np.float32)})[0].shape[2]
    output = onnx.shape_inference.infer_shapes(model).graph.output[0]
    inferred = output.type.tensor_type.shape.dim[2].dim_value
    network = builder.create_network()
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    return ran, inferred, network.get_output(0).shape[2]


found = []
for auto_pad in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
    found.append(heights(auto_pad))
    ran, inferred, parsed = found[-1]
    name = f"auto_pad {auto_pad}:"
    print(f"{name:20} ONNX Runtime {ran}, inferred {inferred}, TensorRT {parsed}")
sys.exit(found != [(15, 15, 15), (15, 15, 14), (15, 15, 14)])
PY
"$folder/venv/bin/python" "$folder/show.py"
