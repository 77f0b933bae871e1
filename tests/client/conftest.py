"""A small Triton behind a real socket, whose answers a test can spoil, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from cytoserve import (
    Cells,
    Client,
    FakeServer,
    Foreground,
    PipelineNotServed,
    Request,
    cells_from_labels,
)
from cytoserve.cli import main
from cytoserve.contract import PIPELINES
from cytoserve.grpc_transport import CHANNEL_OPTIONS

Fault = Callable[[grpc.ServicerContext], None]
Spoil = Callable[[service_pb2.ModelInferResponse], None]


@dataclass
class SocketServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as ``fake`` does; ``faults`` spoil the next answers of pipelines, one each."""

    fake: FakeServer
    faults: list[Fault] = field(default_factory=list)
    every: Fault | None = None  # spoils every call, cards and readiness included
    spoil: Spoil | None = None
    configs: dict[str, model_config_pb2.ModelConfig] = field(default_factory=dict)
    statistics: list[service_pb2.ModelStatistics] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    server: grpc.Server | None = None

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(4), options=CHANNEL_OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop(grace=None).wait()
            self.server = None

    def ServerMetadata(self, request, context):
        self._spoil_all(context)
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def ModelReady(self, request, context):
        self._spoil_all(context)
        ready = run(self.fake.is_ready(request.name, 1.0))
        return service_pb2.ModelReadyResponse(ready=ready)

    def ModelConfig(self, request, context):
        self._spoil_all(context)
        config = self.configs.get(request.name, model_config_pb2.ModelConfig(name=request.name))
        return service_pb2.ModelConfigResponse(config=config)

    def ModelStatistics(self, request, context):
        self._spoil_all(context)
        return service_pb2.ModelStatisticsResponse(model_stats=self.statistics)

    def ModelInfer(self, request, context):
        self.asked.append(request.model_name)
        self._spoil_all(context)
        if request.model_name in PIPELINES and self.faults:
            self.faults.pop(0)(context)
        try:
            tensors = run(self.fake.infer(decoded(request), 1.0))
        except PipelineNotServed:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Request for unknown model: '{request.model_name}' is not found",
            )
        answer = encoded(request.model_name, tensors)
        if self.spoil is not None and request.model_name in PIPELINES:
            self.spoil(answer)
        return answer

    def _spoil_all(self, context) -> None:
        if self.every is not None:
            self.every(context)


def run(coroutine):
    """Finish a coroutine of FakeServer, which never suspends."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


def decoded(request: service_pb2.ModelInferRequest) -> Request:
    inputs = {
        tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    return Request(request.model_name, inputs, tuple(output.name for output in request.outputs))


def encoded(model: str, tensors) -> service_pb2.ModelInferResponse:
    answer = service_pb2.ModelInferResponse(model_name=model, model_version="1")
    for name, tensor in tensors.items():
        answer.outputs.add(
            name=name, datatype=np_to_triton_dtype(tensor.dtype), shape=list(tensor.shape)
        )
        is_bytes = tensor.dtype == np.object_
        raw = serialize_byte_tensor(tensor).item() if is_bytes else tensor.tobytes()
        assert not is_bytes or deserialize_bytes_tensor(raw) == tensor
        answer.raw_output_contents.append(raw)
    return answer


def aborting(code: grpc.StatusCode, text: str = "no") -> Fault:
    return lambda context: context.abort(code, text)


@pytest.fixture
def cells() -> Cells:
    """Three cells of two classes in a frame of 60 x 80 px; the last two overlap."""
    rows, columns = np.mgrid[:60, :80]
    labels = np.zeros((60, 80), np.uint16)
    for label, (y, x, radius) in enumerate([(15, 20, 9), (35, 50, 12), (50, 12, 6)], 1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = label
    found = cells_from_labels(labels, np.array([0, 1, 0]), ("RBC", "WBC"))
    boxes = found.boxes.copy()
    boxes[2] = boxes[1] + (8, 3, 6, 2)
    return Cells(
        boxes=boxes,
        scores=np.array([0.9, 0.8, 0.3], np.float32),
        class_ids=found.class_ids,
        class_probs=np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]], np.float32),
        patches=found.patches,
        frame_shape=(60, 80),
        class_names=("RBC", "WBC"),
        found=3,
    )


@pytest.fixture
def frame() -> np.ndarray:
    """uint16 [60, 80]."""
    return np.random.default_rng(1).integers(100, 4000, (60, 80)).astype(np.uint16)


@pytest.fixture
def foreground() -> Foreground:
    """Two discs and a bar in a frame of 60 x 80 px, with three centres: two in the first disc."""
    rows, columns = np.mgrid[:60, :80]
    probability = np.full((60, 80), 20, np.uint8)
    probability[(rows - 15) ** 2 + (columns - 20) ** 2 <= 81] = 240
    probability[(rows - 35) ** 2 + (columns - 50) ** 2 <= 144] = 180
    probability[50:55, 5:25] = 150
    return Foreground.from_probability(
        probability,
        class_name="nuclei",
        centres=np.array([[18.5, 15.5], [24.5, 15.5], [50.5, 35.5]], np.float32),
        centre_scores=np.array([0.9, 0.8, 0.7], np.float32),
    )


@pytest.fixture
def fake(cells: Cells, foreground: Foreground) -> FakeServer:
    return FakeServer(cells, foreground=foreground)


@pytest.fixture
def triton(fake: FakeServer) -> Iterator[SocketServer]:
    """A started server on a free port; it may be stopped and started again on that port."""
    server = SocketServer(fake)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(triton: SocketServer) -> Iterator[Client]:
    with Client(triton.url, timeout=10) as client:
        yield client


@pytest.fixture
def abort() -> Callable[..., Fault]:
    """Makes a fault that ends a call with a status and a text."""
    return aborting


@pytest.fixture
def command() -> Callable[..., Result]:
    """Runs ``cytoserve`` with arguments."""
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Writes noise of 60 x 80 px to a path."""

    def write(path: Path, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (60, 80)).astype(np.uint8)
        assert cv2.imwrite(str(path), pixels)
        return path

    return write


@pytest.fixture
def states() -> Callable[[Path], dict[str, str]]:
    """Reads the state of every image from an output folder."""

    def read(out: Path) -> dict[str, str]:
        files = json.loads((out / "run.json").read_text("utf-8"))["files"]
        return {key: entry["status"] for key, entry in files.items()}

    return read


@pytest.fixture
def images(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Four good images, two of a name, and a text file, in folders."""
    folder = tmp_path / "images"
    for seed, name in enumerate(("x.png", "x.tif", "a/x.png", "b/c/y.jpg")):
        write_image(folder / name, seed)
    (folder / "notes.txt").write_text("no image")
    (folder / "d.0").mkdir()
    (folder / "d.0" / "z").write_text("no image")
    (folder / "a" / "._x.png").write_text("left by another system")
    return folder


@pytest.fixture
def segment(
    triton: SocketServer, images: Path, tmp_path: Path, command: Callable[..., Result]
) -> Callable[..., Result]:
    """Runs ``cytoserve segment`` on the images against the server."""

    def run(*arguments: object, paths: tuple[Path, ...] = (images,)) -> Result:
        out = tmp_path / "out"
        return command("segment", *paths, "--out", out, "--url", triton.url, *arguments)

    return run
