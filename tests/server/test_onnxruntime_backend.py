"""The Python `onnxruntime` backend against what NVIDIA's native one does, in a real server."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.embedded import EmbeddedServer
from server.installation import available_cores
from server.tritonserver import workers_of

Deploy = Callable[..., str]
TritonOf = Callable[[EmbeddedServer], psutil.Process]

DOUBLE = "(float[N,3] x) => (float[N,3] y) { y = Add(x, x) }"
FIXED = "(float[2,3] x) => (float[2,3] y) { y = Add(x, x) }"
LONG = "(float[N,L] x) => (float[N,L] y) { y = Add(x, x) }"
ADD_ROWS = """(float[N,3] x) => (float[N,3] y)
              { rows = Shape<start = 0, end = 1>(x)  n = Cast<to = 1>(rows)  y = Add(x, n) }"""
PAIR = "(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Add(x, x)  z = Mul(x, x) }"
TEXT = "(string[N,K] x) => (string[N,K] y) { y = Identity(x) }"
SUM = "(float[N] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }"
SCALE = "(float x) => (float y) { y = Add(x, x) }"
SEQUENCE = "(float[N,3] x) => (seq(float[N,3]) y) { y = SequenceConstruct(x) }"
PICK = """(float[N,3] x, int64[K] i) => (float[N,3] y, float[K,3] z)
          { y = Add(x, x)  z = Gather(x, i) }"""
SHAPE = "(float[N,3] x, int64[K] i) => (float[M] y) { y = Reshape(x, i) }"
OFFSET = "(float[2] x, float[2] b) => (float[2] y) <float[2] b = {10, 20}> { y = Add(x, b) }"


def tensor(kind: str, name: str, dtype: str, dims: list[int], more: str = "") -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: {dims} {more} }}\n'


def io(dims: list[int], dtype: str = "FP32", out: list[int] | None = None) -> str:
    """Entries of `x` and `y`, of the same dims unless `out` is given."""
    return tensor("input", "x", dtype, dims) + tensor("output", "y", dtype, out or dims)


def parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}\n'


def accelerated_by(name: str) -> str:
    accelerator = f'cpu_execution_accelerator [ {{ name: "{name}" }} ]'
    return f"optimization {{ execution_accelerators {{ {accelerator} }} }}\n"


BATCHES = "max_batch_size: 8\n"
PICKED = tensor("input", "x", "FP32", [-1, 3]) + tensor("input", "i", "INT64", [-1])


@pytest.fixture(scope="module")
def client(shared_server: EmbeddedServer) -> Iterator[InferenceServerClient]:
    client = shared_server.admin_client()
    yield client
    client.close()


Outcome = str | InferenceServerException
"""The name of a model that is loaded, or why it is not."""


@pytest.fixture(scope="module")
def deploy(
    request: pytest.FixtureRequest,
    shared_server: EmbeddedServer,
    served_folder: Callable[[EmbeddedServer], Path],
    client: InferenceServerClient,
) -> Iterator[Deploy]:
    """Load a graph (onnx's text form) under a configuration; return the model's name.

    What stands in the tables of this file is loaded at once, for a load is mostly waiting.
    """
    repository = served_folder(shared_server)
    names = (f"conformance_{number}" for number in itertools.count())

    def load(graph: str | bytes, config: str = "", file: str = "model.onnx") -> Outcome:
        name = next(names)
        version = repository / name / "1"
        version.mkdir(parents=True)
        head = f'backend: "onnxruntime"\ninstance_group {{ count: 1 }}\n{config}'
        (version.parent / "config.pbtxt").write_text(head)
        (version / file).write_bytes(graph if isinstance(graph, bytes) else serialised(graph))
        try:
            client.load_model(name)
        except InferenceServerException as error:
            return error
        return name

    tabled = {
        (item.callspec.params["graph"], item.callspec.params["config"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
        and {"graph", "config"} <= item.callspec.params.keys()
    }
    with ThreadPoolExecutor(16) as pool:
        outcomes = dict(zip(tabled, pool.map(lambda case: load(*case), tabled), strict=True))

    def deployed(graph: str | bytes, config: str = "", file: str = "model.onnx") -> str:
        outcome = outcomes.get((graph, config)) or load(graph, config, file)
        if isinstance(outcome, InferenceServerException):
            raise outcome
        return outcome

    yield deployed
    for folder in repository.glob("conformance_*"):
        client.unload_model(folder.name)
        shutil.rmtree(folder)


def serialised(graph: str) -> bytes:
    head = '<ir_version: 8, opset_import: ["" : 17]> conformance '
    return bytes(onnx.parser.parse_model(head + graph).SerializeToString())


def infer(
    client: InferenceServerClient, model: str, outputs: list[str] | None = None, **arrays: Any
) -> dict[str, np.ndarray]:
    """Send arrays by input name; return all arrays of the answer by output name."""
    inputs = []
    for name, value in arrays.items():
        array = np.asarray(value)
        inputs.append(InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    asked = [InferRequestedOutput(name) for name in outputs] if outputs else None
    result = client.infer(model, inputs, outputs=asked, client_timeout=30)
    return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


# -- Filled in from the ONNX file ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("graph", "config", "batch", "inputs", "outputs"),
    [
        pytest.param(DOUBLE, "", 4, {"x": [3]}, {"y": [3]}, id="variable batch is Triton's 4"),
        pytest.param(DOUBLE, BATCHES, 8, {"x": [3]}, {"y": [3]}, id="batch size given"),
        pytest.param(FIXED, "", 0, {"x": [2, 3]}, {"y": [2, 3]}, id="fixed batch"),
        pytest.param(LONG, BATCHES, 8, {"x": [-1]}, {"y": [-1]}, id="symbolic dims are -1"),
        pytest.param(SUM, "", 0, {"x": [-1]}, {"y": [1]}, id="scalar output"),
        pytest.param(PICK, "", 4, {"x": [3], "i": [1]}, {"y": [3], "z": [3]}, id="several"),
        pytest.param(
            PAIR,
            BATCHES + tensor("input", "x", "FP32", [3]),
            8,
            {"x": [3]},
            {"y": [3], "z": [3]},
            id="only outputs missing",
        ),
        pytest.param(
            PAIR,
            BATCHES + tensor("output", "z", "FP32", [3]),
            8,
            {"x": [3]},
            {"z": [3]},
            id="only inputs missing",
        ),
    ],
)
def test_completes_the_configuration(
    deploy: Deploy,
    client: InferenceServerClient,
    graph: str,
    config: str,
    batch: int,
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
) -> None:
    completed = client.get_model_config(deploy(graph, config)).config
    assert completed.max_batch_size == batch
    assert completed.HasField("dynamic_batching") == (batch > 1)
    assert {each.name: list(each.dims) for each in completed.input} == inputs
    assert {each.name: list(each.dims) for each in completed.output} == outputs


def test_completed_batch_of_scalars_is_served(
    deploy: Deploy, client: InferenceServerClient
) -> None:
    model = deploy("(float[N] x) => (float[N] y) { y = Add(x, x) }", BATCHES)
    answer = infer(client, model, x=[[np.float32(2)], [np.float32(3)]])
    np.testing.assert_array_equal(answer["y"], [[4], [6]])


# -- Refused at load ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("graph", "config", "reason"),
    [
        pytest.param(
            DOUBLE,
            tensor("input", "w", "FP32", [-1, 3]) + tensor("output", "y", "FP32", [-1, 3]),
            "unexpected inference input 'w', allowed inputs are: x",
            id="input name",
        ),
        pytest.param(
            PAIR,
            tensor("input", "x", "FP32", [-1, 3]) + tensor("output", "w", "FP32", [-1, 3]),
            "unexpected inference output 'w', allowed outputs are: y, z",
            id="output name",
        ),
        pytest.param(
            PICK,
            io([-1, 3]),
            "configuration expects 1 inputs, model provides 2",
            id="input left out",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3], "FP64"),
            "configuration expects datatype TYPE_FP64 for input 'x', model provides TYPE_FP32",
            id="input dtype",
        ),
        pytest.param(
            DOUBLE,
            tensor("input", "x", "FP32", [-1, 3]) + tensor("output", "y", "INT32", [-1, 3]),
            "configuration expects datatype TYPE_INT32 for output 'y', model provides TYPE_FP32",
            id="output dtype",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3, 1]),
            "tensor 'x': the model expects 2 dimensions (shape [-1,3]) but the model configuration "
            "specifies 3 dimensions (shape [-1,3,1])",
            id="rank",
        ),
        pytest.param(
            DOUBLE,
            io([-1, -1]),
            "tensor 'x': the model expects 2 dimensions (shape [-1,3]) but the model configuration "
            "specifies 2 dimensions (shape [-1,-1])",
            id="fixed dim called variable",
        ),
        pytest.param(DOUBLE, io([-1, 4]), "shape [-1,4]", id="other fixed dim"),
        pytest.param(
            LONG,
            io([-1, 5]),
            "tensor 'y': the model expects 2 dimensions (shape [-1,-1])",
            id="variable output dim called fixed",
        ),
        pytest.param(
            LONG,
            BATCHES + io([-1, -1]),
            "(an initial batch dimension because max_batch_size > 0 followed by the explicit "
            "tensor shape, making complete shape [-1,-1,-1])",
            id="batch dim listed though it batches",
        ),
        pytest.param(
            FIXED,
            BATCHES + io([3]),
            "for the model to support batching the shape should have at least 1 dimension and the "
            "first dimension must be -1; but shape expected by the model is [2,3]",
            id="batching on a fixed batch",
        ),
        pytest.param(
            FIXED,
            BATCHES,
            "model does not support batching while non-zero max_batch_size is specified",
            id="batching on a fixed batch, to complete",
        ),
        pytest.param(SCALE, io([2]), "scalar tensor 'x', should only provide 1", id="scalar of 2"),
        pytest.param(
            OFFSET,
            BATCHES
            + tensor("input", "b", "FP32", [2], "optional: true")
            + tensor("input", "x", "FP32", [2])
            + tensor("output", "y", "FP32", [2]),
            "optional input 'b' is not supported for models that support batching",
            id="optional input of a batching model",
        ),
        pytest.param(
            SEQUENCE,
            "",
            "Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 'y'",
            id="sequence",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + parameter("intra_op_thread_count", "many"),
            "failed to convert 'many' to integral number",
            id="intra_op_thread_count",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + parameter("inter_op_thread_count", "few"),
            "failed to convert 'few' to integral number",
            id="inter_op_thread_count",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + parameter("execution_mode", "2"),
            "Expected values for execution_mode are 0 or 1 but got 2",
            id="execution_mode",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + parameter("enable_mem_arena", "maybe"),
            "failed to convert 'maybe' to boolean",
            id="enable_mem_arena",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + parameter("enable_mem_pattern", "perhaps"),
            "failed to convert 'perhaps' to boolean",
            id="enable_mem_pattern",
        ),
        pytest.param(
            b"\x08\x08\x12",
            io([-1, 3]),
            "onnx runtime error 7: Load model from model.onnx failed:Protobuf parsing failed.",
            id="truncated file",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + 'default_model_filename: "net.onnx"',
            "unable to find '1/net.onnx'",
            id="file of another name",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + accelerated_by("armnn"),
            "unknown Execution Accelerator 'armnn' is requested",
            id="unknown accelerator",
        ),
        pytest.param(
            DOUBLE,
            io([-1, 3]) + accelerated_by("openvino"),
            "unknown Execution Accelerator 'openvino' is requested",
            id="accelerator that ONNX Runtime was built without",
        ),
    ],
)
def test_refuses_at_load(deploy: Deploy, graph: str | bytes, config: str, reason: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        deploy(graph, config)
    assert reason in caught.value.message()


# -- Answers --------------------------------------------------------------------------------------
TYPES = {
    "bool": np.bool_,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "float16": np.float16,
    "float": np.float32,
    "double": np.float64,
}


def test_hands_on_every_type(deploy: Deploy, client: InferenceServerClient) -> None:
    inputs = ", ".join(f"{name}[N] {name}_in" for name in TYPES)
    outputs = ", ".join(f"{name}[N] {name}_out" for name in TYPES)
    nodes = "  ".join(f"{name}_out = Identity({name}_in)" for name in TYPES)
    model = deploy(f"({inputs}) => ({outputs}) {{ {nodes} }}")
    given = {name: np.array([[0], [1], [100]]).astype(dtype) for name, dtype in TYPES.items()}
    answer = infer(client, model, **{f"{name}_in": array for name, array in given.items()})
    for name, array in given.items():
        np.testing.assert_array_equal(answer[f"{name}_out"], array, strict=True)


@pytest.mark.parametrize(
    ("graph", "config", "arrays", "expected"),
    [
        pytest.param(SUM, io([-1], out=[1]), {"x": floats(4)}, [6.0], id="scalar output"),
        pytest.param(
            SCALE, io([1, 1]), {"x": floats(1, 1) + 3}, [[6.0]], id="scalars in config dims"
        ),
        pytest.param(DOUBLE, io([-1, 3]), {"x": floats(0, 3)}, floats(0, 3), id="zero rows"),
        pytest.param(
            TEXT,
            io([-1, -1], "STRING"),
            {"x": np.array([["cell", ""], ["Zelle ü", "细胞"]], object)},
            [[b"cell", b""], ["Zelle ü".encode(), "细胞".encode()]],
            id="text",
        ),
        pytest.param(
            TEXT,
            io([-1, -1], "STRING"),
            {"x": np.empty((0, 2), object)},
            np.empty((0, 2), object),
            id="zero rows of text",
        ),
        pytest.param(
            OFFSET,
            io([2]) + tensor("input", "b", "FP32", [2], "optional: true"),
            {"x": floats(2)},
            [10, 21],
            id="optional input left out",
        ),
        pytest.param(
            OFFSET,
            io([2]) + tensor("input", "b", "FP32", [2], "optional: true"),
            {"x": floats(2), "b": floats(2)},
            [0, 2],
            id="optional input given",
        ),
    ],
)
def test_answers(
    deploy: Deploy,
    client: InferenceServerClient,
    graph: str,
    config: str,
    arrays: dict[str, np.ndarray],
    expected: Any,
) -> None:
    answer = infer(client, deploy(graph, config), **arrays)["y"]
    np.testing.assert_array_equal(answer, np.asarray(expected, dtype=answer.dtype), strict=True)


def test_default_model_filename(deploy: Deploy, client: InferenceServerClient) -> None:
    model = deploy(DOUBLE, 'default_model_filename: "net.onnx"', file="net.onnx")
    np.testing.assert_array_equal(infer(client, model, x=floats(1, 3))["y"], 2 * floats(1, 3))


@pytest.mark.parametrize("asked", [["y"], ["z"], ["z", "y"], None])
def test_answers_only_what_is_asked_for(
    deploy: Deploy, client: InferenceServerClient, asked: list[str] | None
) -> None:
    answer = infer(client, deploy(PAIR), asked, x=floats(1, 3))
    assert answer.keys() == set(asked or ["y", "z"])


@pytest.mark.parametrize(
    ("graph", "config", "text"),
    [
        pytest.param(
            PICK,
            PICKED + tensor("output", "z", "FP32", [-1, 3]),
            "onnx runtime error 2: Non-zero status code returned while running Gather node",
            id="invalid argument",
        ),
        pytest.param(
            SHAPE,
            PICKED + tensor("output", "y", "FP32", [-1]),
            "onnx runtime error 1: Non-zero status code returned while running Reshape node",
            id="fail",
        ),
    ],
)
def test_run_errors(
    deploy: Deploy, client: InferenceServerClient, graph: str, config: str, text: str
) -> None:
    model = deploy(graph, config)
    with pytest.raises(InferenceServerException) as caught:
        infer(client, model, x=floats(1, 3), i=[np.int64(7)])
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert text in caught.value.message()
    assert "/" not in caught.value.message()
    assert "Traceback" not in caught.value.message()


# -- Batches --------------------------------------------------------------------------------------
WAITING = """max_batch_size: 4
dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 5000000 }
"""


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same time; return their results or exceptions in order."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(10)
        try:
            return call()
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_requests_of_a_batch_share_one_run(deploy: Deploy, client: InferenceServerClient) -> None:
    model = deploy(ADD_ROWS, WAITING)
    given = [floats(1, 3), floats(2, 3) + 10, floats(1, 3) + 100]
    answers = together(*(lambda x=x: infer(client, model, x=x) for x in given))
    for x, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], x + 4)  # the graph saw all four rows


def test_a_batch_answers_each_request_with_its_own_outputs(
    deploy: Deploy, client: InferenceServerClient
) -> None:
    model = deploy(PAIR, WAITING)
    x = floats(2, 3)
    first, second = together(
        lambda: infer(client, model, ["y"], x=x), lambda: infer(client, model, ["z"], x=x + 1)
    )
    assert (first.keys(), second.keys()) == ({"y"}, {"z"})
    np.testing.assert_array_equal(first["y"], 2 * x)
    np.testing.assert_array_equal(second["z"], (x + 1) ** 2)


def test_an_unreadable_request_leaves_the_others_of_its_batch_alone(
    deploy: Deploy, client: InferenceServerClient
) -> None:
    model = deploy(TEXT.replace("K", "1"), WAITING)
    texts = ([[b"a"], [b"b"]], [[b"\xff"]], [[b"c"]])
    given = [np.array(text, object) for text in texts]
    good, bad, last = together(*(lambda x=x: infer(client, model, x=x) for x in given))
    np.testing.assert_array_equal(good["y"], given[0])
    np.testing.assert_array_equal(last["y"], given[2])
    assert bad.status() == "StatusCode.INVALID_ARGUMENT"
    assert "input 'x': BYTES elements must be UTF-8 text" in bad.message()


def test_an_error_of_the_run_is_the_answer_to_all(
    deploy: Deploy, client: InferenceServerClient
) -> None:
    model = deploy(PICK, WAITING)
    calls = [
        lambda i=i: infer(client, model, ["z"], x=floats(2, 3), i=np.full((2, 1), i, np.int64))
        for i in (0, 9)
    ]
    assert [error.status() for error in together(*calls)] == ["StatusCode.INTERNAL"] * 2


# -- The worker process ---------------------------------------------------------------------------
def test_threads_are_the_configuration_or_else_the_cores(
    deploy: Deploy, shared_server: EmbeddedServer, triton_of: TritonOf
) -> None:
    threads = {}
    for count in ("1", "3", None):
        config = io([-1, 3]) + (parameter("intra_op_thread_count", count) if count else "")
        worker = worker_of(triton_of(shared_server), deploy(DOUBLE, config))
        threads[count] = worker.num_threads()
    assert threads["3"] - threads["1"] == 2
    assert threads[None] - threads["1"] == available_cores() - 1


def test_workers_send_no_telemetry_and_bound_other_pools(
    deploy: Deploy, shared_server: EmbeddedServer, triton_of: TritonOf
) -> None:
    environment = worker_of(triton_of(shared_server), deploy(DOUBLE)).environ()
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["OMP_NUM_THREADS"] == str(available_cores())
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["OPENCV_FOR_THREADS_NUM"] == "1"


def worker_of(triton: psutil.Process, model: str) -> psutil.Process:
    [worker] = [each for each in workers_of(triton.pid).values() if each.model == model]
    return worker.process
