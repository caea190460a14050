#!/usr/bin/env bash
# ONNX Runtime: with its memory pattern, which is on by default, the second run doubles the memory.
#
# The first run with a shape allocates tensor by tensor and notes what it needed; the second one
# allocates one block for all of it. What the first run had used stays in the arena of the session,
# where nothing uses it again. So a session that has run twice holds twice the activations of one
# that has run once, or whose enable_mem_pattern is False, and its second run takes as long as its
# first. Later runs are equally fast in both. Two threads that run a session at the same time pay
# twice (seen with a U-Net: 358 MB in all with it, 283 without).
#
# Seen on 2026-11-29 with onnxruntime 1.32.0, onnx 1.23.2, NumPy 2.3.5, Python 3.11, x86-64 Linux;
# six convolutions of 16 channels at 512x512 (16 MiB each, two at a time), one thread, MiB above the
# loaded session after each of four runs:
#   enable_mem_pattern True   34 67 67 67
#   enable_mem_pattern False  34 34 34 34
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
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 16, 512


def network(depth):
    nodes, weights, last = [], [], "x"
    for i in range(depth):
        kernel = np.full((CHANNELS, CHANNELS if i else 1, 3, 3), 0.01, np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"y{i}"], pads=[1, 1, 1, 1]))
        last = f"y{i}"
    shape = (1, 1, SIDE, SIDE)
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model.SerializeToString(), np.ones(shape, np.float32)


def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 >> 20


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.enable_mem_pattern = sys.argv[1] == "True"
model, x = network(6)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
before, grown = resident_mib(), []
for _ in range(4):
    session.run(None, {"x": x})
    grown.append(resident_mib() - before)
print(*grown)
PY
default=$("$folder/venv/bin/python" "$folder/show.py" True)
without=$("$folder/venv/bin/python" "$folder/show.py" False)
echo "enable_mem_pattern True   $default"
echo "enable_mem_pattern False  $without"
read -r first second _ <<<"$default"
read -r _ alone _ <<<"$without"
# Twice the first run, within a sixth; without the pattern, no more than the first.
if ((second * 6 >= first * 11 && alone * 6 <= first * 7)); then
  echo "as described"
else
  echo "changed"
  exit 1
fi
