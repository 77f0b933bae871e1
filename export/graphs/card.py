"""The model card of a pipeline: a graph that returns the pipeline's description of itself.

Triton passes neither class names nor hashes of model files to a client. A model whose only output
is a constant string does, on every Triton and in the protocol that the client already speaks.
"""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import helper

from cytoserve.contract import CARD_INPUT, CARD_OUTPUT
from export.graphs.types import OPSET


def card_graph(content: dict[str, Any]) -> onnx.ModelProto:
    """Build a graph that answers page 0 with ``content`` as JSON.

    A graph without any input would do as well, but Triton's requests carry at least one.
    """
    pages = helper.make_tensor(
        "pages", onnx.TensorProto.STRING, [1], [json.dumps(content, sort_keys=True).encode()]
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["pages", CARD_INPUT.name], [CARD_OUTPUT.name])],
        "card",
        [helper.make_tensor_value_info(CARD_INPUT.name, onnx.TensorProto.INT64, [1])],
        [helper.make_tensor_value_info(CARD_OUTPUT.name, onnx.TensorProto.STRING, [1])],
        [pages],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
