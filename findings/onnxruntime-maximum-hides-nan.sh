#!/usr/bin/env bash
# ONNX Runtime: whether a maximum is NaN depends on where the NaN is, and on the operator.
#
# PyTorch's and NumPy's maxima are NaN if any value is. On the CPU, ReduceMax and ReduceMin are NaN
# only if the first value is, and ArgMax points at it only there; MaxPool and GlobalMaxPool lose a
# NaN in first place and keep one in the last of 16, as they go through memory eight or sixteen
# values at a time. What comes out instead need not be the greatest of the other values: below, 15 is
# lost with the NaN. A score that is exported as the greatest logit of an image so looks sound after
# an overflow in FP16, for most places of the overflow. TopK (k = 1) always finds it. A sum does too.
#
# Seen on 2026-11-29 with onnxruntime 1.32.0, onnx 1.23.2, NumPy 2.3.5, Python 3.11, x86-64 with
# AVX2; 0 to 15, with NaN in the first, the second and the last place:
#   NumPy max      nan nan nan
#   ReduceMax      nan 14.0 14.0
#   GlobalMaxPool  15.0 15.0 nan
#   TopK           nan nan nan
#   ReduceSum      nan nan nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnxruntime==1.32.0 onnx==1.23.2 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import math
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

K = helper.make_tensor("k", TensorProto.INT64, [1], [1])
NODES = {
    "ReduceMax": helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0),
    "GlobalMaxPool": helper.make_node("GlobalMaxPool", ["x"], ["y"]),
    "TopK": helper.make_node("TopK", ["x", "k"], ["y", "places"]),
    "ReduceSum": helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0),
}


def run(node, x):
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [K] if "k" in node.input else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return float(session.run(["y"], {"x": x})[0].ravel()[0])


found = {"NumPy max": [], **{name: [] for name in NODES}}
for place in (0, 1, 15):
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 1, 16)
    x[..., place] = np.nan
    found["NumPy max"].append(float(x.max()))
    for name, node in NODES.items():
        found[name].append(run(node, x))
for name, values in found.items():
    print(f"{name:14}", *values)
seen = {name: [None if math.isnan(v) else v for v in values] for name, values in found.items()}
always = [None] * 3
expected = {
    "NumPy max": always,
    "ReduceMax": [None, 14.0, 14.0],
    "GlobalMaxPool": [15.0, 15.0, None],
    "TopK": always,
    "ReduceSum": always,
}
sys.exit(seen != expected)
PY
"$folder/venv/bin/python" "$folder/show.py"
