"""The contract in ONNX's terms: what graphs are written by, and compared with without torch."""

from __future__ import annotations

import onnx

from cytoserve.contract import Step

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


def leaves_outputs_open(step: Step) -> bool:
    """Whether the contract leaves sizes of a network's outputs open that the network itself fixes.

    So it is where inputs of a fixed size have outputs of an open one: that is the number of
    classes. Where the inputs vary, the outputs vary with them; but a fused step holds a network.
    """
    varies = [any(-1 in tensor.dims for tensor in side) for side in (step.inputs, step.outputs)]
    return step.fused or (step.batches and varies == [False, True])
