"""ONNX graphs as files and sessions, in the terms of the contract."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import onnx
import onnxruntime
from onnx import external_data_helper, helper

from cytoserve.files import file_sha256

OPSET = 17
"""Newest opset that the tracing exporter of every supported torch version writes."""

CONTRACT_DTYPES = {
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.STRING: "BYTES",
}
"""ONNX element type -> its name in the contract, which is also Triton's."""

ELEMENT_TYPES = {name: element_type for element_type, name in CONTRACT_DTYPES.items()}
"""Name of a dtype in the contract -> ONNX element type."""


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


def tell_errors_only() -> None:
    """Let ONNX Runtime print errors only from now on, and no warnings."""
    onnxruntime.set_default_logger_severity(3)


MAX_MESSAGE_BYTES = 1_900_000_000
"""Maximum bytes of weights in the graph's own file: a protobuf message is limited to 2 GiB."""

EXTERNAL_BYTES = 1024
"""Minimum bytes of a weight that moves out of a graph that exceeds `MAX_MESSAGE_BYTES`."""

DATA_SUFFIX = ".data"
"""Suffix of the file beside a graph's own file that holds its weights."""

DATA_HASH = "external_data_sha256"
"""Metadata key of the weight file's sha256, for a graph with such a file.

The entry is part of the graph's own file, so the hash of that file identifies the weights, too."""


def save_graph(graph: onnx.ModelProto, file: Path) -> None:
    """Write ``graph``; if its weights exceed `MAX_MESSAGE_BYTES`, they go into a second file.

    The second file lies in the same folder, where ONNX Runtime finds it by its name. ``graph`` is
    left unchanged.
    """
    if weight_bytes(graph) <= MAX_MESSAGE_BYTES:
        onnx.save(graph, file)
        return
    data = file.with_name(file.name + DATA_SUFFIX)
    external_data_helper.convert_model_to_external_data(
        graph, location=data.name, size_threshold=EXTERNAL_BYTES
    )
    try:
        external_data_helper.write_external_data_tensors(graph, str(file.parent))
        helper.set_model_props(graph, {DATA_HASH: file_sha256(data)})
        onnx.save(graph, file)
        shutil.copymode(file, data)  # onnx makes it private; Triton may run as another user
    finally:
        del graph.metadata_props[:]
        if data.is_file():
            external_data_helper.load_external_data_for_model(graph, str(file.parent))
        for weight in graph.graph.initializer:
            weight.ClearField("data_location")


def open_graph(graph: onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a CPU session for a graph in memory, see `export.graphs.files.open_session`."""
    if weight_bytes(graph) <= MAX_MESSAGE_BYTES:
        return open_session(graph.SerializeToString(), threads)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        save_graph(graph, file)
        return open_session(file, threads)


def weight_bytes(graph: onnx.ModelProto) -> int:
    """Bytes of the weights; protobuf cannot tell the size of more than 2 GiB."""
    return sum(len(weight.raw_data) for weight in graph.graph.initializer)
