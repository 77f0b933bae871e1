"""ONNX Runtime in this process: for parity checks, and as the bound for a server's speed."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import onnxruntime


def open_session(model: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a CPU session for a model file or its bytes; ``threads`` 0 uses all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Same setting as the server's, see `spinning` in server/backends/onnxruntime/model.py.
    brief = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 26)
    name, value = ("spin_duration_us", "20") if brief else ("allow_spinning", "0")
    options.add_session_config_entry(f"session.intra_op.{name}", value)
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
