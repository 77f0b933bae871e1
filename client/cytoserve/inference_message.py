"""Encode a request as the bytes of Triton's `ModelInferRequest`, copying the frame only once.

Protobuf itself takes milliseconds to put a megapixel into a message. This module writes the message
piece by piece. The reader still sees one message: that is how protobuf's encoding is defined
(https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from cytoserve.transport import Request

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_REQUEST = service_pb2.ModelInferRequest

_BYTES = 2
"""Protobuf's wire type of length-delimited values: text, bytes, messages."""


def inference_call(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
    """Return the call `ModelInfer` of a gRPC channel, blocking or asyncio.

    It takes the bytes from :func:`message`, returns a `ModelInferResponse` and raises
    `grpc.RpcError`.
    """
    return channel.unary_unary(
        f"/{_SERVICE.full_name}/ModelInfer",
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )


def message(request: Request) -> bytes:
    """Return the encoded message of a request, whose inputs must be numbers, never text."""
    head = _REQUEST(
        model_name=request.model,
        inputs=[
            _REQUEST.InferInputTensor(
                name=name, datatype=np_to_triton_dtype(tensor.dtype), shape=tensor.shape
            )
            for name, tensor in request.inputs.items()
        ],
        outputs=[_REQUEST.InferRequestedOutputTensor(name=name) for name in request.outputs],
    )
    parts: list[bytes | memoryview] = [head.SerializeToString()]
    field = _REQUEST.DESCRIPTOR.fields_by_name["raw_input_contents"].number
    for tensor in request.inputs.values():
        parts += [
            _varint(field << 3 | _BYTES),
            _varint(tensor.nbytes),
            np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data,
        ]
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Encode a number as protobuf does: seven bits per byte, lowest first."""
    coded = bytearray()
    while number > 0x7F:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)
