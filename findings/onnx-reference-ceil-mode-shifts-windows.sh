#!/usr/bin/env bash
# ONNX: with ceil_mode, the reference evaluator pools other windows than ONNX Runtime and PyTorch.
#
# ceil_mode=1 adds a window at the end where the stride leaves a rest. The reference evaluator, the
# usual judge of other runtimes, pads at the beginning as well: AveragePool shifts all its windows,
# so every value differs, where more than one row has to be added. MaxPool makes two rows and
# columns too many where there is padding and the stride is 1, though nothing is left over; shape
# inference of the same package says otherwise. Both agree with ceil_mode=0. Judge a pool of an
# exported network with ONNX Runtime or PyTorch.
#
# Seen on 2026-11-30 with onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11; averages of
# 3 x 3 with stride 3 of the numbers 0 to 55 in 7 rows; maxima of 2 x 2 with padding 1:
#   AveragePool, ONNX Runtime  9, 12, 14.5; 33, 36, 38.5; 49, 52, 54.5
#   AveragePool, reference     5, 8, 10.5; 25, 28, 30.5; 41, 44, 46.5
#   MaxPool, ONNX Runtime      8 x 9 (inferred 8 x 9)
#   MaxPool, reference         10 x 11 (inferred 8 x 9)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.arange(56, dtype=np.float32).reshape(1, 1, 7, 8)
onnxruntime.set_default_logger_severity(4)


def pooled(name, **attributes):
    node = helper.make_node(name, ["x"], ["y"], ceil_mode=1, **attributes)
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:])
    opset = [helper.make_opsetid("", 21)]
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opset, ir_version=10)
    )
    onnx.checker.check_model(model)
    inferred = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[2:]]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ran = session.run(None, {"x": x})[0][0, 0]
    return ran, ReferenceEvaluator(model).run(None, {"x": x})[0][0, 0], inferred


def numbers(rows):
    return "; ".join(", ".join(f"{value:g}" for value in row) for row in rows)


def size(shape):
    return " x ".join(map(str, shape))


ran, judged, _ = pooled("AveragePool", kernel_shape=[3, 3], strides=[3, 3])
print("AveragePool, ONNX Runtime ", numbers(ran))
print("AveragePool, reference    ", numbers(judged))
most, most_judged, inferred = pooled("MaxPool", kernel_shape=[2, 2], pads=[1, 1, 1, 1])
print(f"MaxPool, ONNX Runtime      {size(most.shape)} (inferred {size(inferred)})")
print(f"MaxPool, reference         {size(most_judged.shape)} (inferred {size(inferred)})")
windows = [[x[0, 0, i : i + 3, j : j + 3].mean() for j in (0, 3, 6)] for i in (0, 3, 6)]
shifted = [[5, 8, 10.5], [25, 28, 30.5], [41, 44, 46.5]]
is_as_described = (
    np.allclose(ran, windows)
    and np.allclose(judged, shifted)
    and (most.shape, most_judged.shape, inferred) == ((8, 9), (10, 11), [8, 9])
)
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py"
