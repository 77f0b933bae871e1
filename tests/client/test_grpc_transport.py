"""Both clients through real sockets, against a server whose answers are spoiled.

The message that a request is, is compared with what protobuf itself makes of it.
"""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
from contextlib import suppress

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from tritonclient.grpc import service_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import np_to_triton_dtype

from cytoserve import AsyncClient, Client
from cytoserve.contract import MAX_FRAME_BYTES
from cytoserve.errors import (
    AccessDenied,
    AnswerMalformed,
    CytoserveError,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSetting,
    PipelineNotServed,
    ServerError,
    ServerUnreachable,
)
from cytoserve.grpc_transport import CHANNEL_OPTIONS, ERRORS, AioTransport, GrpcTransport, message
from cytoserve.settings import LONGEST_TIMEOUT_S
from cytoserve.shared_memory_transport import SharedMemoryTransport
from cytoserve.transport import Request

RANDOM = np.random.default_rng(0)
RESTRICTED = "This protocol is restricted, expecting header 'triton-grpc-protocol-k'"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(params=["blocking", "asyncio"])
def segment(request, triton):
    """``segment(image, ...)`` of either client."""
    if request.param == "blocking":
        with Client(triton.url, timeout=10) as client:
            yield client.segment
        return

    def call(*arguments, **named):
        async def once():
            async with AsyncClient(triton.url, timeout=10) as client:
                return await client.segment(*arguments, **named)

        return asyncio.run(once())

    yield call


@pytest.mark.parametrize(
    ("shape", "number"),
    [
        pytest.param((60, 80), 3, id="grey"),
        pytest.param((60, 80, 3), 3, id="rgb"),
        pytest.param((1, 1), 0, id="1x1"),
    ],
)
def test_a_frame_goes_and_its_cells_come(segment, cells, shape, number):
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    found = segment(image, "yolo", labels=True)
    np.testing.assert_array_equal(found.patches, cells.patches[:number])
    assert found.class_names == ("RBC", "WBC")
    assert found.labels.shape == found.frame_shape == shape[:2]


def test_no_cells_are_an_ordinary_answer(segment, triton, cells, frame):
    triton.fake._find = lambda image, origin: cells[:0]
    found = segment(frame)
    assert len(found) == 0
    assert not found.label_image().any()


def test_a_frame_of_many_megabytes_passes(segment):
    found = segment(np.zeros((4096, 4096), np.uint16), labels=True)  # gRPC's own limit is 4 MiB
    assert found.labels.shape == (4096, 4096)


def test_every_status_is_mapped():
    assert set(ERRORS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


OPENVINO = """optimization { execution_accelerators { cpu_execution_accelerator [ {
  name: "openvino"
  parameters { key: "num_of_threads" value: "2" } parameters { key: "a" value: "b" }
} ] } }"""
TENSORRT = """optimization { execution_accelerators { gpu_execution_accelerator [
  { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } }
] } }"""


@pytest.mark.parametrize(
    ("config", "execution"),
    [
        pytest.param("", "", id="nothing said"),
        pytest.param('default_model_filename: "model.onnx"', "", id="its usual file"),
        pytest.param('default_model_filename: "model.plan"', "", id="that of another backend"),
        pytest.param('default_model_filename: "m.onnx"', "m.onnx", id="another file"),
        pytest.param(OPENVINO, "openvino a=b num_of_threads=2", id="on OpenVINO"),
        pytest.param(TENSORRT, "tensorrt precision_mode=FP16", id="on TensorRT"),
        pytest.param(
            f'default_model_filename: "m.onnx" {TENSORRT}',
            "m.onnx, tensorrt precision_mode=FP16",
            id="both",
        ),
        pytest.param('backend: "tensorrt"', "tensorrt", id="by a plan of TensorRT"),
        pytest.param("instance_group { count: 2 }", "", id="more instances"),
    ],
)
@pytest.mark.parametrize("kind", [GrpcTransport, AioTransport])
def test_how_a_model_is_run(triton, kind, config, execution):
    triton.configs["yolo_cells"] = text_format.Parse(config, ModelConfig())

    async def ask():
        transport = kind(triton.url)
        found = await transport.execution("yolo_cells", 5.0)
        await transport.close()
        return found

    assert asyncio.run(ask()) == execution


@pytest.mark.parametrize("code", ERRORS, ids=lambda code: code.name)
def test_every_status_becomes_its_error(triton, abort, frame, code):
    triton.every = abort(code, "text of the server")
    if code is grpc.StatusCode.NOT_FOUND:  # only inference is refused so
        triton.every = None
        triton.faults = [abort(code, "Request for unknown model: 'yolo' is not found")]
    with Client(triton.url, timeout=5) as client, pytest.raises(CytoserveError) as failure:
        client.segment(frame, "yolo")
    assert type(failure.value) is ERRORS[code]
    message = str(failure.value)
    if code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED):
        assert "text of the server" in message
        assert "; given: " in message


@pytest.mark.parametrize(
    ("text", "error", "asked"),
    [
        pytest.param("socket closed", ServerUnreachable, 3, id="outage"),
        pytest.param(RESTRICTED, AccessDenied, 1, id="restricted"),
        pytest.param(
            "Request for unknown model: 'yolo' has no available versions",
            PipelineNotServed,
            1,
            id="unloaded",
        ),
    ],
)
def test_unavailable_is_repeated_only_for_an_outage(
    triton, abort, client, frame, text, error, asked
):
    client.card("yolo")
    triton.faults = [abort(grpc.StatusCode.UNAVAILABLE, text)] * 9
    with pytest.raises(error):
        client.segment(frame, "yolo")
    assert triton.asked.count("yolo") == asked


def test_an_outage_that_passes_goes_unnoticed(segment, triton, abort, frame):
    triton.faults = [abort(grpc.StatusCode.UNAVAILABLE, "busy")] * 2
    assert len(segment(frame, "yolo")) == 3
    assert triton.asked.count("yolo") == 3


def test_the_deadline_holds(segment, triton, frame):
    silent = threading.Event()
    triton.faults = [lambda context: silent.wait(60)]
    told = rf"given: 0\.4 s for yolo\. .*--timeout.* from yolo at {triton.url} in 0\.\d+ s"
    try:
        with pytest.raises(DeadlineExceeded, match=told):
            segment(frame, "yolo", timeout=0.4)
    finally:
        silent.set()


def test_the_deadline_holds_over_all_tries(triton, abort, frame):
    def slow_outage(context):
        time.sleep(0.6)
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

    triton.faults = [slow_outage] * 9
    with (
        Client(triton.url) as client,
        pytest.raises((DeadlineExceeded, ServerUnreachable)),
    ):
        client.segment(frame, "yolo", timeout=1.0)
    assert triton.asked.count("yolo") <= 2  # a third try would begin after 1.2 s


def test_a_deadline_of_a_silent_host_holds():
    with socket.socket() as silent:  # accepts, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(url, timeout=0.5) as client,
            pytest.raises((DeadlineExceeded, ServerUnreachable), match=url),
        ):
            client.pipelines()


class LongLine(socketserver.BaseRequestHandler):
    """Leads to ``server.target``, once a caller has waited for longer than gRPC's pauses."""

    def handle(self):
        time.sleep(1.5)
        with socket.create_connection(self.server.target) as target:
            back = threading.Thread(target=carry, args=(target, self.request))
            back.start()
            carry(self.request, target)
            back.join()


def carry(source, target):
    with suppress(OSError):  # either end may go first
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def far(triton):
    """The server's address at the near end of a long line."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), LongLine) as line:
        line.target = ("127.0.0.1", triton.port)
        threading.Thread(target=line.serve_forever, args=(0.05,)).start()
        yield f"127.0.0.1:{line.server_address[1]}"
        line.shutdown()


@pytest.mark.parametrize("kind", [GrpcTransport, AioTransport, SharedMemoryTransport])
def test_a_server_that_is_slow_to_reach_is_waited_for(far, kind):
    async def ask():
        transport = kind(far)
        found = await transport.server_info(10.0)
        await transport.close()
        return found

    assert asyncio.run(ask()).name == "triton"


def test_a_wrong_url_says_so(frame):
    url = f"127.0.0.1:{free_port()}"
    with Client(url) as client, pytest.raises(ServerUnreachable) as failure:
        client.segment(frame)
    for part in (url, "python -m server", "--url", "given: "):
        assert part in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "http://localhost:8001",
        "localhost:",
        ":8001",
        "localhost:99999",
        "host:80/x",
        "",
    ],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InvalidSetting, match="host:port"):
        Client(url)


def test_a_server_that_comes_back_is_found_again(triton, frame):
    with Client(triton.url, timeout=10) as client:
        client.segment(frame)
        triton.stop()
        with pytest.raises(ServerUnreachable):
            client.segment(frame)
        triton.start()
        time.sleep(0.3)
        assert len(client.segment(frame)) == 3


def cut_bytes(answer):
    answer.raw_output_contents[0] = answer.raw_output_contents[0][:-3]


def cut_rows(answer):
    answer.outputs[0].shape[0] += 1


def odd_dtype(answer):
    answer.outputs[0].datatype = "FP32X"


def no_outputs(answer):
    del answer.outputs[:]
    del answer.raw_output_contents[:]


@pytest.mark.parametrize("spoil", [cut_bytes, cut_rows, odd_dtype, no_outputs])
def test_malformed_answers_are_named(segment, triton, frame, spoil):
    triton.spoil = spoil
    with pytest.raises(AnswerMalformed, match=r"yolo must|of yolo must"):
        segment(frame, "yolo")


def test_headers_open_a_restricted_server(triton, frame):
    def guard(context):
        if ("triton-grpc-protocol-k", "v") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAVAILABLE, RESTRICTED)

    triton.every = guard
    with Client(triton.url) as client, pytest.raises(AccessDenied, match="api_key="):
        client.segment(frame)
    transport = GrpcTransport(triton.url, headers={"triton-grpc-protocol-k": "v"})
    with Client(transport=transport) as client:
        assert len(client.segment(frame)) == 3


def test_several_requests_share_one_client(triton, cells, frame):
    async def all_at_once():
        async with AsyncClient(triton.url) as client:
            return await asyncio.gather(*(client.segment(frame) for _ in range(8)))

    assert [len(found) for found in asyncio.run(all_at_once())] == [3] * 8


def test_an_async_client_may_be_made_before_its_event_loop(triton, frame):
    client = AsyncClient(triton.url, timeout=10)

    async def once():
        return await client.segment(frame)

    loop = asyncio.new_event_loop()
    assert len(loop.run_until_complete(once())) == 3
    with pytest.raises(InvalidRequest, match=r"its first call; given: .* another .*run\("):
        asyncio.run(once())
    loop.run_until_complete(client.close())
    loop.close()


@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.parametrize("kind", [GrpcTransport, AioTransport, SharedMemoryTransport])
def test_a_closed_transport_says_so(triton, frame, kind, asked_before):
    async def ask():
        transport = kind(triton.url)
        async with AsyncClient(transport=transport) as client:
            if asked_before:
                await client.segment(frame)
        large = np.zeros((300, 300), np.uint16)  # for shared memory
        for call in (client.segment(large), client.pipelines(), client.server_info()):
            with pytest.raises(InvalidRequest, match=r"given: a call after close\(\).*Client\(url"):
                await call
        with pytest.raises(InvalidRequest, match="after close"):
            await transport.execution("yolo", 1.0)

    asyncio.run(ask())


def test_the_longest_deadline_is_one(segment, frame):
    assert len(segment(frame, timeout=LONGEST_TIMEOUT_S)) == 3


def test_cancelling_an_awaited_call_cancels_it(triton, frame):
    async def cancelled():
        async with AsyncClient(triton.url) as client:
            await client.card()
            triton.faults = [lambda context: time.sleep(0.5)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.segment(frame), 0.1)

    asyncio.run(cancelled())


def test_channel_options_fit_the_contract():
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.keepalive_time_ms"] >= 300_000
    assert options["grpc.max_send_message_length"] > MAX_FRAME_BYTES
    assert MAX_FRAME_BYTES < options["grpc.max_receive_message_length"] < 2**31


def test_the_servers_text_is_kept(segment, triton, abort, frame):
    triton.faults = [abort(grpc.StatusCode.INTERNAL, "Stub process 'x_0_0' is not healthy.")]
    with pytest.raises(ServerError, match="INTERNAL: Stub process 'x_0_0' is not healthy"):
        segment(frame)
    assert triton.asked.count("yolo_resnet") == 1


def by_tritonclient(request: Request) -> service_pb2.ModelInferRequest:
    whole = service_pb2.ModelInferRequest(model_name=request.model, id=request.id)
    for name, tensor in request.inputs.items():
        one = triton_grpc.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
        one.set_data_from_numpy(np.ascontiguousarray(tensor))
        whole.inputs.append(one._get_tensor())
        whole.raw_input_contents.append(one._get_content())
    for name in request.outputs:
        whole.outputs.append(triton_grpc.InferRequestedOutput(name)._get_tensor())
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
def test_a_message_says_what_tritonclient_says(inputs: dict[str, np.ndarray]) -> None:
    request = Request("yolo", inputs, ("boxes", "scores"))
    said = service_pb2.ModelInferRequest.FromString(message(request))
    assert said == by_tritonclient(request)
