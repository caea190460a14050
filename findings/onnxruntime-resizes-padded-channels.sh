#!/usr/bin/env bash
# ONNX Runtime: a bilinear Resize of few channels also resizes the channels of its padded layout.
#
# On x86-64, ONNX Runtime computes convolutions in blocks of 8 or 16 channels (NCHWc) and keeps that
# layout for a Resize that follows: a network that ends with a convolution to a few classes and a
# Resize to the size of the image resizes 16 channels, of which most are zeros, and takes the few
# out of the large result. The coordinate_transformation_mode decides: half_pixel, asymmetric and
# align_corners are computed that way, pytorch_half_pixel is not, though it places pixels as
# half_pixel does (where the output is larger than one pixel). With up to about six channels
# pytorch_half_pixel is faster; with 16, half_pixel is. There is no session option for it.
#
# Seen on 2026-11-30 with onnxruntime 1.32.0, onnx 1.23.2, NumPy 2.3.5, Python 3.11, x86-64 Linux
# with AVX-512; a 1x1 convolution of 16 channels and a Resize by 4 to 1024x1024, one thread; ratio
# of the CPU times half_pixel / pytorch_half_pixel, and what the optimised graph resizes with:
#   1 channels 4.9 Upsample/Resize equal
#   4 channels 1.8 Upsample/Resize equal
#   16 channels 0.6 Upsample/Resize equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnxruntime==1.32.0 onnx==1.23.2 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

MODES = ("half_pixel", "pytorch_half_pixel")
x = np.random.default_rng(1).normal(size=(1, 16, 256, 256)).astype(np.float32)


def session(channels, mode, optimised):
    kernel = np.full((channels, 16, 1, 1), 0.1, np.float32)
    scales = np.array([1, 1, 4, 4], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["small"]),
            helper.make_node(
                "Resize", ["small", "", "scales"], ["y"],
                mode="linear", coordinate_transformation_mode=mode,
            ),
        ],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = optimised
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


for channels in (1, 4, 16):
    sessions, kinds, results = {}, [], []
    for mode in MODES:
        optimised = f"{sys.argv[1]}/{mode}.onnx"
        sessions[mode] = session(channels, mode, optimised)
        nodes = onnx.load(optimised).graph.node
        kinds += [n.op_type for n in nodes if n.op_type in ("Resize", "Upsample")]
        results.append(sessions[mode].run(None, {"x": x})[0])
    seconds = {mode: [] for mode in MODES}
    for _ in range(21):
        for mode in MODES:
            began = time.process_time()
            sessions[mode].run(None, {"x": x})
            seconds[mode].append(time.process_time() - began)
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    close = np.allclose(*results, rtol=1e-5, atol=1e-5)
    print(f"{channels} channels {ratio:.1f} {'/'.join(kinds)} {'equal' if close else 'different'}")
PY
found=$("$folder/venv/bin/python" "$folder/show.py" "$folder")
echo "$found"
if [ "$(grep -c ' Upsample/Resize equal$' <<<"$found")" = 3 ] &&
  awk '$1 == 1 { exit !($3 > 1.5) }' <<<"$found"; then
  echo "as described"
else
  echo "changed"
  exit 1
fi
