"""ONNX Runtime as training uses it: on the CPU, for graphs that were just made."""

from __future__ import annotations

import os

import onnxruntime as ort


def open_session(onnx_bytes: bytes, *, num_threads: int = 0) -> ort.InferenceSession:
    """ONNX Runtime on the CPU; 0 threads are as many as this process may use cores.

    Left to itself, ONNX Runtime takes every core of the machine, also those that it was denied.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
