#!/usr/bin/env bash
# ONNX Runtime: Sigmoid on a CPU is exactly 0 from -18 down.
#
# A float32 holds 1 / (1 + exp(18)) = 1.5e-8 and far smaller numbers with seven digits, and NumPy,
# PyTorch and ONNX's reference give them. ONNX Runtime approximates the function by a quotient plus
# one half, so its results are multiples of 3e-8: twice too large at -17, nothing from -18 down.
# The logarithm of such a probability is minus infinity, images of a rare class cannot be ranked by
# it, and the logit cannot be had back. The same value from Exp, Add and Reciprocal is right.
#
# Seen on 2026-11-30 with ONNX Runtime 1.23.2 and 1.32.0, ONNX 1.23.2, Python 3.11: x, Sigmoid of
# ONNX Runtime, and the same of ONNX's reference:
#   -17    8.941e-08  4.140e-08
#   -18    0.000e+00  1.523e-08
#   -30    0.000e+00  9.358e-14
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnxruntime==1.32.0 onnx==1.23.2 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
x = np.array([-17, -18, -30], np.float32)
session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
found = session.run(None, {"x": x})[0]
right = ReferenceEvaluator(model).run(None, {"x": x})[0]
for row in zip(x, found, right):
    print("{:<6.0f} {:.3e}  {:.3e}".format(*row))
as_seen = found[0] > 2 * right[0] and not found[1:].any() and (right > 0).all()
sys.exit(0 if as_seen else 1)
PY
"$folder/venv/bin/python" "$folder/show.py"
