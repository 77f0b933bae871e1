"""The message that a request is, against what protobuf itself makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from cytoserve.inference_message import message
from cytoserve.transport import Request

RANDOM = np.random.default_rng(0)


def by_tritonclient(request: Request) -> service_pb2.ModelInferRequest:
    whole = service_pb2.ModelInferRequest(model_name=request.model)
    for name, tensor in request.inputs.items():
        one = triton.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
        one.set_data_from_numpy(np.ascontiguousarray(tensor))
        whole.inputs.append(one._get_tensor())
        whole.raw_input_contents.append(one._get_content())
    for name in request.outputs:
        whole.outputs.append(triton.InferRequestedOutput(name)._get_tensor())
    return whole


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({}, id="no input"),
        pytest.param({"a": np.array([0.25], np.float32)}, id="a number"),
        pytest.param({"a": np.zeros((0, 4), np.float32)}, id="no rows"),
        pytest.param(
            {
                "image": RANDOM.integers(0, 65536, (300, 500, 3)).astype(np.uint16),
                "threshold": np.array([0.5], np.float32),
            },
            id="a frame, its length in three bytes",
        ),
        pytest.param({"a": np.arange(127, dtype=np.uint8)}, id="127 bytes"),
        pytest.param({"a": np.arange(128, dtype=np.uint8)}, id="128 bytes"),
        pytest.param({"a": np.arange(12, dtype=np.uint16).reshape(3, 4).T}, id="turned"),
        pytest.param({"a": np.array([True, False])}, id="bool"),
    ],
)
def test_it_says_what_tritonclient_says(inputs: dict[str, np.ndarray]) -> None:
    request = Request("yolo", inputs, ("boxes", "scores"))
    said = service_pb2.ModelInferRequest.FromString(message(request))
    assert said == by_tritonclient(request)
