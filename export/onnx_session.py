"""ONNX Runtime in this process: for parity checks and as the limit that a server is held to."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import onnxruntime


def open_session(model: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session of a model file or its bytes; ``threads`` 0 takes all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The sessions of a chain take turns; idle threads of one must not spin while another runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
