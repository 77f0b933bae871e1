"""A tiny repository with the contract's `yolo`, and real servers on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from cytoserve import contract
from cytoserve.contract import PIPELINES, Tensor
from server.embedded import EmbeddedServer

ONNX_TYPES = {
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP32": TensorProto.FLOAT,
    "BYTES": TensorProto.STRING,
}

CARD = b'{"class_names": ["cell"], "models": {}}'

ONE_INSTANCE = 'backend: "{}"\ninstance_group {{ count: 1 }}'

WAIT_MODEL = '''
"""Hands frames on after as many milliseconds as its darkest pixel says; a canary's says 0 or 1."""
import pathlib, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if pathlib.Path({broken!r}).exists():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("upside down"))
        frame = pb_utils.get_input_tensor_by_name(request, "frame").as_numpy()
        time.sleep(int(frame.min()) / 1000)
        return pb_utils.InferenceResponse([pb_utils.Tensor("waited", frame)])
'''


def value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    dims = [f"{tensor.name}_{i}" if dim == -1 else dim for i, dim in enumerate(tensor.dims)]
    return helper.make_tensor_value_info(tensor.name, ONNX_TYPES[tensor.dtype], dims)


def save_graph(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def entry(kind: str, tensor: Tensor) -> str:
    dtype = "STRING" if tensor.dtype == "BYTES" else tensor.dtype
    return f'{kind} {{ name: "{tensor.name}" data_type: TYPE_{dtype} dims: {list(tensor.dims)} }}\n'


def save_config(
    model: Path,
    head: str,
    inputs: Sequence[Tensor] = (),
    outputs: Sequence[Tensor] = (),
    tail: str = "",
) -> None:
    (model / "1").mkdir(parents=True, exist_ok=True)
    text = head + "\n"
    text += "".join(entry("input", tensor) for tensor in inputs)
    text += "".join(entry("output", tensor) for tensor in outputs)
    (model / "config.pbtxt").write_text(text + tail)


def empty_answer(outputs: list[Tensor]) -> list[onnx.NodeProto]:
    """Nodes that answer 'no cells' of one class; `cells_found` is `max_cells`."""
    nodes = [
        helper.make_node("Identity", ["max_cells"], ["cells_found"]),
        helper.make_node("Sub", ["max_cells", "max_cells"], ["none_int32"]),
        helper.make_node("Cast", ["none_int32"], ["none"], to=TensorProto.INT64),
    ]
    for tensor in outputs:
        if tensor.name == "cells_found":
            continue
        sizes = (-1, 1) if tensor == contract.CLASS_PROBS else tensor.dims
        dims = [constant(nodes, f"{tensor.name}_{i}", d) for i, d in enumerate(sizes)]
        zero = helper.make_tensor("zero", ONNX_TYPES[tensor.dtype], [1], [0])
        shape = f"{tensor.name}_shape"
        nodes.append(helper.make_node("Concat", dims, [shape], axis=0))
        nodes.append(helper.make_node("ConstantOfShape", [shape], [tensor.name], value=zero))
    return nodes


def constant(nodes: list[onnx.NodeProto], name: str, dim: int) -> str:
    if dim == -1:
        return "none"
    value = helper.make_tensor(name, TensorProto.INT64, [1], [dim])
    nodes.append(helper.make_node("Constant", [], [name], value=value))
    return name


def add_pipeline(repository: Path, name: str) -> None:
    """An ensemble of the contract: `<name>_wait` (Python), then `<name>_cells` (ONNX)."""
    pipeline = PIPELINES[name]
    frame, waited = (Tensor(key, "UINT16", (-1, -1, -1)) for key in ("frame", "waited"))
    python, onnx_runtime = ONE_INSTANCE.format("python"), ONE_INSTANCE.format("onnxruntime")
    save_config(repository / f"{name}_wait", python, [frame], [waited])
    broken = str(repository / "broken")
    (repository / f"{name}_wait/1/model.py").write_text(WAIT_MODEL.format(broken=broken))

    inputs = [waited, *pipeline.inputs[1:]]
    outputs = [*pipeline.outputs, *pipeline.on_request]
    save_config(repository / f"{name}_cells", onnx_runtime, inputs, outputs)
    sides = [[value_info(tensor) for tensor in side] for side in (inputs, outputs)]
    graph = helper.make_graph(empty_answer(outputs), name, *sides)
    save_graph(repository / f"{name}_cells/1/model.onnx", graph)

    def mapped(kind: str, pairs: list[tuple[str, str]]) -> str:
        return "".join(f'{kind} {{ key: "{key}" value: "{value}" }}\n' for key, value in pairs)

    names = [(tensor.name, tensor.name) for tensor in outputs]
    steps = (
        f'step {{ model_name: "{name}_wait" model_version: -1\n'
        + mapped("input_map", [("frame", "image")])
        + mapped("output_map", [("waited", "waited")])
        + f'}}\nstep {{ model_name: "{name}_cells" model_version: -1\n'
        + mapped("input_map", [(tensor.name, tensor.name) for tensor in inputs])
        + mapped("output_map", names)
        + "}\n"
    )
    save_config(
        repository / name,
        'platform: "ensemble"',
        pipeline.inputs,
        outputs,
        f"ensemble_scheduling {{\n{steps}}}\n",
    )
    add_card(repository, pipeline.card)


def add_card(repository: Path, name: str) -> None:
    onnx_runtime = ONE_INSTANCE.format("onnxruntime")
    save_config(repository / name, onnx_runtime, [contract.CARD_INPUT], [contract.CARD_OUTPUT])
    pages = helper.make_tensor("pages", TensorProto.STRING, [1], [CARD])
    nodes = [
        helper.make_node("Constant", [], ["pages"], value=pages),
        helper.make_node("Gather", ["pages", "page"], ["card"]),
    ]
    sides = ([value_info(contract.CARD_INPUT)], [value_info(contract.CARD_OUTPUT)])
    save_graph(repository / name / "1/model.onnx", helper.make_graph(nodes, name, *sides))


class Caller:
    """Sends frames to the tiny `yolo`, which answers after `wait` seconds."""

    def __init__(self, url: str, model: str = "yolo") -> None:
        self.client = InferenceServerClient(url)
        self.model = model

    def request(self, wait: float = 0.0) -> int:
        """Return the answer's `cells_found`, which is the request's `max_cells`."""
        frame = np.full((4, 4, 1), round(wait * 1000), np.uint16)
        values = {"image": frame, "max_cells": np.array([17], np.int32)}
        inputs = []
        for tensor in PIPELINES["yolo"].inputs:
            value = values.get(tensor.name, np.array([0.5], np.float32))
            inputs.append(InferInput(tensor.name, value.shape, tensor.dtype))
            inputs[-1].set_data_from_numpy(value)
        outputs = [InferRequestedOutput("cells_found")]
        answer = self.client.infer(self.model, inputs, outputs=outputs, client_timeout=30)
        return int(answer.as_numpy("cells_found")[0])

    def until_answered(self, seconds: float) -> list[InferenceServerException]:
        """Ask until an answer comes, for `seconds` at most; return the errors before it."""
        errors: list[InferenceServerException] = []

        def answered() -> bool:
            try:
                return self.request() == 17
            except InferenceServerException as error:
                errors.append(error)
                return False

        wait_until(answered, seconds)
        return errors


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Poll until `condition` holds; return the seconds that took, or fail after `seconds`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture
def call() -> Iterator[Callable[[str], Caller]]:
    """Make callers, by URL, that are closed after the test."""
    callers: list[Caller] = []

    def make(url: str, model: str = "yolo") -> Caller:
        callers.append(Caller(url, model))
        return callers[-1]

    yield make
    for caller in callers:
        caller.client.close()


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[[Callable[[], bool], float], float]:
    """The function `wait_until`, for test files."""
    return wait_until


def triton_of(server: EmbeddedServer) -> psutil.Process:
    [process] = [p for p in psutil.Process(server.pid).children() if p.name() == "tritonserver"]
    return process


def served_folder(server: EmbeddedServer) -> Path:
    """The folder from which a server's Triton loads models."""
    return Path(triton_of(server).cwd(), "model_repository")


@pytest.fixture(scope="session", name="served_folder")
def served_folder_fixture() -> Callable[[EmbeddedServer], Path]:
    """The function `served_folder`, for test files."""
    return served_folder


@pytest.fixture(name="triton_of")
def triton_of_fixture() -> Callable[[EmbeddedServer], psutil.Process]:
    """Find the tritonserver process below a launcher."""
    return triton_of


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the pipeline `yolo` of the contract, made of tiny models."""
    # A space, for Triton starts workers by a shell line without quotes.
    repository = tmp_path_factory.mktemp("model repository")
    add_pipeline(repository, "yolo")
    return repository


@pytest.fixture
def own_repository(tmp_path: Path) -> Path:
    """A tiny repository that a test may break."""
    repository = tmp_path / "model_repository"
    repository.mkdir()
    add_pipeline(repository, "yolo")
    return repository


@pytest.fixture(scope="session")
def shared_server(tiny_repository: Path) -> Iterator[EmbeddedServer]:
    """A server on the tiny repository that no test may harm."""
    with EmbeddedServer(tiny_repository, ["yolo"]) as server:
        yield server
        assert "Restarting" not in server.output, "the supervisor gave a false alarm"
