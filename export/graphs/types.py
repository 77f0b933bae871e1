"""The contract in ONNX's terms: what graphs are written by, and compared with without torch."""

from __future__ import annotations

import onnx

OPSET = 17
"""The newest that the tracing exporter of every supported torch writes."""

CONTRACT_DTYPES = {
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.STRING: "BYTES",
}
"""ONNX element type -> the contract's, and Triton's, name of it."""

ELEMENT_TYPES = {name: element_type for element_type, name in CONTRACT_DTYPES.items()}
"""The contract's name of a dtype -> ONNX element type."""
