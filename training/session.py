"""ONNX Runtime for training: on the CPU, for graphs that were just exported."""

from __future__ import annotations

import os

import onnxruntime as ort


def open_session(onnx_bytes: bytes, *, num_threads: int = 0) -> ort.InferenceSession:
    """Open ONNX Runtime on the CPU; 0 threads for as many as this process may use cores.

    By default, ONNX Runtime uses every core of the machine, including those denied to the process.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
