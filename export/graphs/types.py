"""The contract's types in ONNX, for writing graphs and for comparing them without torch."""

from __future__ import annotations

import onnx

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
