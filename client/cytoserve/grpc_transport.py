"""gRPC transports to a Triton server: one that blocks, and one for asyncio.

A request is encoded as the bytes of Triton's `ModelInferRequest`, copying the frame only once.
Protobuf itself takes milliseconds to put a megapixel into a message; :func:`message` writes it
piece by piece. The reader still sees one message: that is how protobuf's encoding is defined
(https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cytoserve.access import (
    TLS,
    Access,
    Address,
    channel_credentials,
    key_headers,
    read_address,
)
from cytoserve.contract import MASK_SIZE, MAX_FRAME_BYTES, SAM_MASK_SIZE, TENSORRT
from cytoserve.errors import (
    AccessDenied,
    AnswerMalformed,
    CytoserveError,
    DeadlineExceeded,
    InvalidRequest,
    PipelineNotServed,
    ServerError,
    ServerNotTrusted,
    ServerUnreachable,
)
from cytoserve.model_config import MODEL_FILES
from cytoserve.prompts import MAX_PROMPTS
from cytoserve.settings import DEFAULT_URL, MAX_CELLS_LIMIT
from cytoserve.transport import Request, ServerInfo, Tensors

_C = TypeVar("_C")

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_REQUEST = service_pb2.ModelInferRequest

_LENGTH_DELIMITED = 2
"""Protobuf's wire type of length-delimited values: text, bytes, messages."""

_HEAD_BYTES = 1024 * 1024  # names, shapes, thresholds
_CELL_BYTES = (
    SAM_MASK_SIZE**2 + 1024
)  # patch, box, score, and the probabilities of up to 250 classes

_PROMPT_BYTES = MASK_SIZE**2 + 1024  # coarse mask, box, and all points with their labels

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_FRAME_BYTES + MAX_PROMPTS * _PROMPT_BYTES + _HEAD_BYTES),
    # The largest answer: a label image as large as the frame, and every cell's patch.
    (
        "grpc.max_receive_message_length",
        MAX_FRAME_BYTES + MAX_CELLS_LIMIT * _CELL_BYTES + _HEAD_BYTES,
    ),
    # A server with default limits drops clients that ping more often than every 5 minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Reconnect fast enough that the three tries of one call use three connections, and that a
    # server is found again within 2 s of a long outage. Leave min_reconnect_backoff_ms alone: it
    # also limits the time for establishing a connection.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

_NO_TLS = "WRONG_VERSION_NUMBER"
"""Part of gRPC's text if the server answers without TLS."""

_NO_TRUST = (
    _NO_TLS,
    "CERTIFICATE_VERIFY_FAILED",
    "Hostname Verification Check failed",
    "TLSV1_ALERT",
    "TLSV13_ALERT",
    "SSLV3_ALERT",
    "CERTIFICATE_REQUIRED",
)
"""Parts of gRPC's texts if one side refuses the other's certificate. Asking again is useless."""

ERRORS: Mapping[grpc.StatusCode, type[CytoserveError]] = {
    grpc.StatusCode.CANCELLED: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: ServerError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: PipelineNotServed,
    grpc.StatusCode.ALREADY_EXISTS: ServerError,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerError,
    grpc.StatusCode.FAILED_PRECONDITION: ServerError,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.OUT_OF_RANGE: ServerError,
    grpc.StatusCode.UNIMPLEMENTED: ServerError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: ServerUnreachable,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
}
"""gRPC status -> error that the caller gets; every status except OK is listed."""


class GrpcTransport:
    """A transport that blocks in every method.

    Args:
        url: ``host:port`` of the server's gRPC endpoint, or ``grpcs://host:port`` for TLS.
        access: certificates and key, for a server that asks for them.
        headers: sent with every call besides.

    Raises:
        InvalidSetting: the address, a certificate or the key is not one.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        access: Access | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._endpoint = Endpoint(url, access or Access(), headers or {})
        self._headers = self._endpoint.headers
        self._server = self._endpoint.triton_client(triton.InferenceServerClient)
        self._channel = self._endpoint.channel(grpc)
        self._infer = inference_call(self._channel)

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        with mapped_errors(self._url, request.model, timeout, request.id):
            answer = self._infer(
                message(request), timeout=timeout, metadata=tuple(self._headers.items())
            )
        return read_outputs(triton.InferResult(answer), request)

    async def is_ready(self, model: str, timeout: float) -> bool:  # noqa: D102
        with mapped_errors(self._url, model, timeout):
            return bool(
                self._server.is_model_ready(model, headers=self._headers, client_timeout=timeout)
            )

    async def execution(self, model: str, timeout: float) -> str:  # noqa: D102
        with mapped_errors(self._url, model, timeout):
            answer = self._server.get_model_config(
                model, headers=self._headers, client_timeout=timeout
            )
        return execution_of(answer.config)

    async def server_info(self, timeout: float) -> ServerInfo:  # noqa: D102
        with mapped_errors(self._url, "the server", timeout):
            answer = self._server.get_server_metadata(headers=self._headers, client_timeout=timeout)
        return ServerInfo(answer.name, answer.version)

    async def sleep(self, seconds: float) -> None:  # noqa: D102
        time.sleep(seconds)

    async def close(self) -> None:  # noqa: D102
        self._channel.close()
        self._server.close()


class AioTransport:
    """A transport that suspends in every method; use it from one event loop.

    The arguments are those of :class:`GrpcTransport`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        access: Access | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._endpoint = Endpoint(url, access or Access(), headers or {})
        self._headers = self._endpoint.headers
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def _server(self) -> triton_aio.InferenceServerClient:
        self._connect()
        return self._connection

    def _connect(self) -> None:
        """Connect on the first call; the connection belongs to that call's event loop.

        Raises:
            InvalidRequest: this call runs in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._connection = self._endpoint.triton_client(triton_aio.InferenceServerClient)
            self._channel = self._endpoint.channel(grpc.aio)
            self._infer = inference_call(self._channel)
        if loop is not self._loop:
            raise InvalidRequest(
                "An AsyncClient belongs to the event loop of its first call; given: a call in "
                "another one. Make one in every asyncio.run(...)."
            )

    async def infer(self, request: Request, timeout: float) -> Tensors:  # noqa: D102
        with mapped_errors(self._url, request.model, timeout, request.id):
            self._connect()
            answer = await self._infer(
                message(request), timeout=timeout, metadata=tuple(self._headers.items())
            )
        return read_outputs(triton.InferResult(answer), request)

    async def is_ready(self, model: str, timeout: float) -> bool:  # noqa: D102
        with mapped_errors(self._url, model, timeout):
            return bool(
                await self._server.is_model_ready(
                    model, headers=self._headers, client_timeout=timeout
                )
            )

    async def execution(self, model: str, timeout: float) -> str:  # noqa: D102
        with mapped_errors(self._url, model, timeout):
            answer = await self._server.get_model_config(
                model, headers=self._headers, client_timeout=timeout
            )
        return execution_of(answer.config)

    async def server_info(self, timeout: float) -> ServerInfo:  # noqa: D102
        with mapped_errors(self._url, "the server", timeout):
            answer = await self._server.get_server_metadata(
                headers=self._headers, client_timeout=timeout
            )
        return ServerInfo(answer.name, answer.version)

    async def sleep(self, seconds: float) -> None:  # noqa: D102
        await asyncio.sleep(seconds)

    async def close(self) -> None:  # noqa: D102
        self._connect()
        await self._channel.close()
        await self._connection.close()


class Endpoint:
    """One server's address with all that a connection to it needs.

    gRPC lets channels with equal address and options share one connection.

    Attributes:
        headers: sent with every call.
    """

    def __init__(self, url: str, access: Access, headers: Mapping[str, str]) -> None:
        self._address = read_address(url)
        self._credentials = channel_credentials(self._address, access)
        self.headers = {**key_headers(access), **headers}
        # gRPC would ask a proxy of the environment for this machine's own addresses, too.
        proxy = ("grpc.enable_http_proxy", int(not self._address.is_loopback))
        self._options = (*CHANNEL_OPTIONS, proxy)

    @property
    def address(self) -> Address:
        """The checked address."""
        return self._address

    def channel(self, library: ModuleType) -> grpc.Channel:
        """Open a channel of ``grpc`` or ``grpc.aio`` for inference."""
        target = self._address.target
        if self._credentials is None:
            return library.insecure_channel(target, self._options)
        return library.secure_channel(target, self._credentials, self._options)

    def triton_client(self, client: Callable[..., _C]) -> _C:
        """Open tritonclient's client, blocking or asyncio, for all other calls."""
        return client(
            self._address.target, creds=self._credentials, channel_args=list(self._options)
        )


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
        id=request.id,
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
            _varint(field << 3 | _LENGTH_DELIMITED),
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


def execution_of(config: model_config_pb2.ModelConfig) -> str:
    """Return what a configuration names apart from the usual file; see `Transport.execution`."""
    accelerators = config.optimization.execution_accelerators
    words = [
        " ".join([each.name, *(f"{key}={value}" for key, value in sorted(each.parameters.items()))])
        for each in (
            *accelerators.gpu_execution_accelerator,
            *accelerators.cpu_execution_accelerator,
        )
    ]
    if config.default_model_filename not in ("", *MODEL_FILES.values()):
        words.insert(0, config.default_model_filename)
    if config.backend == TENSORRT:
        words.insert(0, TENSORRT)
    return ", ".join(words)


@contextmanager
def mapped_errors(url: str, model: str, timeout: float, request_id: str = "") -> Iterator[None]:
    """Convert errors of gRPC and tritonclient into ours, by gRPC status and text.

    The ``request_id`` of an inference is named where the server's log may tell more.

    Raises:
        InvalidRequest: the transport is closed.
    """
    try:
        yield
    except (ValueError, grpc.aio.UsageError) as error:
        if "closed" not in str(error).lower():
            raise
        raise InvalidRequest(
            f"A client is asked before it is closed; given: a call after close(), to {url}. Make "
            "another Client(url)."
        ) from error
    except grpc.RpcError as error:
        text = error.details() or "no text"
        raise _mapped(error.code(), text, url, model, timeout, request_id) from error
    except InferenceServerException as error:
        text = error.message() or "no text"
        raise _mapped(status_of(error), text, url, model, timeout, request_id) from error


def status_of(error: InferenceServerException) -> grpc.StatusCode:
    """Return the gRPC status of tritonclient's error."""
    name = str(error.status()).removeprefix("StatusCode.")
    return grpc.StatusCode.__members__.get(name, grpc.StatusCode.UNKNOWN)


def _mapped(
    status: grpc.StatusCode, text: str, url: str, model: str, timeout: float, request_id: str
) -> CytoserveError:
    kind, which = _kind(status, text), ""
    if request_id and request_id not in text:
        which = f"[request id: {request_id}] "  # as Triton itself writes it
    if kind is PipelineNotServed:
        return PipelineNotServed(model)
    if kind is DeadlineExceeded:
        return DeadlineExceeded(
            f"A call is answered in its time; given: {which}no answer from {model} at {url} in "
            f"{timeout:.3g} s. Allow more, or check the server with `cytoserve doctor`."
        )
    if kind is ServerUnreachable:
        tls = (
            "A server that asks callers for a certificate closes the connection of those without "
            "one that it trusts (cert=…, key=…, --cert, --key)."
            if url.startswith(TLS)
            else f"If the server has a certificate, the address is {TLS}host:port."
        )
        return ServerUnreachable(
            f"A server must answer at {url}; given: {text}. Start one with `python -m server`, or "
            f"check the address (url=…, --url): it is host:port of the gRPC endpoint. {tls}"
        )
    if kind is ServerNotTrusted and _NO_TLS in text:
        return ServerNotTrusted(
            f"A server at {TLS} has a certificate; given: one without TLS at {url}. Write "
            f"{url.removeprefix(TLS)}, or give the server a certificate (--tls-cert, --tls-key)."
        )
    if kind is ServerNotTrusted:
        return ServerNotTrusted(
            f"The server at {url} must have a certificate for this address, from an authority "
            f"that the client trusts, and accept the client's; given: {text}. Give the "
            "authority's certificate (ca=…, --ca), and your own if the server asks for one "
            "(cert=…, key=…, --cert, --key); use the host name that the server's certificate "
            "names."
        )
    if kind is AccessDenied:
        return AccessDenied(
            f"The server at {url} restricts this call to {model}; given: {text}. Pass its key: "
            "Client(url, api_key=…), CYTOSERVE_API_KEY=…; calls that administer the server are "
            "its own."
        )
    return ServerError(
        f"{model} at {url} must answer without an error; given: {which}{status.name}: {text}. "
        "See the server's log, and check the server with `cytoserve doctor`."
    )


def _kind(status: grpc.StatusCode, text: str) -> type[CytoserveError]:
    """Return our error for a status. The text shows when retrying on UNAVAILABLE is useless."""
    if status is grpc.StatusCode.UNAVAILABLE:
        if "restricted" in text:
            return AccessDenied
        if any(words in text for words in _NO_TRUST):
            return ServerNotTrusted
        if "unknown model" in text:
            return PipelineNotServed
    return ERRORS[status]


def read_outputs(answer: triton.InferResult, request: Request) -> Tensors:
    """Return the requested outputs; missing ones are left out.

    Raises:
        AnswerMalformed: the bytes of an output do not fit its shape or dtype.
    """
    try:
        tensors = {name: answer.as_numpy(name) for name in request.outputs}
    except (ValueError, TypeError, InferenceServerException) as error:
        raise AnswerMalformed(
            f"Every output of {request.model} must be as large as its shape says; given: {error}. "
            "Check that client and server are of the same version with `cytoserve doctor`."
        ) from error
    return {name: np.asarray(tensor) for name, tensor in tensors.items() if tensor is not None}
