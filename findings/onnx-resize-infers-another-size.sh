#!/usr/bin/env bash
# ONNX: shape inference and ONNX Runtime disagree about one Resize.
#
# Resize makes floor(size * scale) of a dimension. The nearest float32 to 25/12 is a little below
# it: ONNX's shape inference multiplies in double precision and infers floor(24.99999994) = 24,
# ONNX Runtime multiplies in single precision and makes 25. A graph whose sizes were computed by
# inference then fails where a later node relies on them. The next float32 up gives 25 in both.
# onnx 1.20.0 still inferred 25 from both.
#
# Seen on 2026-11-29 with onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.3.5, Python 3.11:
#   scale 2.08333325386 (float32 of 25/12): inferred 24, run 25
#   scale 2.08333349228 (the next one up):  inferred 25, run 25
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnx==1.23.2 onnxruntime==1.32.0 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def sizes(scale):
    scales = numpy_helper.from_array(np.array([1, 1, 1, scale], np.float32), "scales")
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], [scales])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    shape = inferred.graph.output[0].type.tensor_type.shape.dim[3].dim_value
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ran = session.run(None, {"x": np.zeros((1, 1, 1, 12), np.float32)})[0].shape[3]
    return shape, ran


nearest = np.float32(25 / 12)
found = []
for scale in (nearest, np.nextafter(nearest, np.float32(3))):
    found.append(sizes(scale))
    print(f"scale {scale:.11f}: inferred {found[-1][0]}, run {found[-1][1]}")
sys.exit(found != [(24, 25), (25, 25)])
PY
"$folder/venv/bin/python" "$folder/show.py"
