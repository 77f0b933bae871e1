"""What the `onnxruntime` backend makes of a configuration before it opens a session."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx.parser
import onnxruntime
import pytest
from google.protobuf.json_format import MessageToDict

from cytoserve.contract import CUDA, CUDA_GRAPH, STEPS
from cytoserve.gpu import has_gpu
from cytoserve.model_config import config_file, read_config
from export.graphs.files import open_session
from server.installation import OWN_BACKENDS, find_installation


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend's module, imported here beside the pure-Python part of Triton's library."""
    monkeypatch.syspath_prepend(find_installation().python_backend)
    path = OWN_BACKENDS / "onnxruntime/model.py"
    spec = importlib.util.spec_from_file_location("onnxruntime_backend", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("config", "option", "value"),
    [
        pytest.param({}, "graph_optimization_level", "ORT_ENABLE_ALL", id="level unset"),
        *(
            pytest.param(
                {"optimization": {"graph": {"level": level}}},
                "graph_optimization_level",
                name,
                id=f"level {level}",
            )
            for level, name in {
                -1: "ORT_ENABLE_BASIC",
                0: "ORT_ENABLE_ALL",
                1: "ORT_ENABLE_EXTENDED",
                2: "ORT_DISABLE_ALL",
            }.items()
        ),
        pytest.param({"execution_mode": "1"}, "execution_mode", "ORT_PARALLEL", id="parallel"),
        pytest.param({"intra_op_thread_count": "3"}, "intra_op_num_threads", 3, id="intra"),
        pytest.param({"inter_op_thread_count": "2"}, "inter_op_num_threads", 2, id="inter"),
        pytest.param({"enable_mem_arena": "OFF"}, "enable_cpu_mem_arena", False, id="arena"),
        pytest.param({"enable_mem_pattern": "0"}, "enable_mem_pattern", False, id="pattern"),
    ],
)
def test_session_options(backend: ModuleType, config: Any, option: str, value: Any) -> None:
    if "optimization" not in config:
        config = {"parameters": {key: {"string_value": text} for key, text in config.items()}}
    found = getattr(backend.session_options(config), option)
    assert getattr(found, "name", found) == value


@pytest.mark.parametrize(
    ("bound", "groups", "own", "threads"),
    [
        pytest.param("8", [{"count": 1}], None, 8, id="a lone instance takes the bound"),
        pytest.param("8", [{"count": 3}], None, 2, id="several share it"),
        pytest.param("8", [{"count": 2}, {"count": 2}], None, 2, id="of all groups"),
        pytest.param("2", [{"count": 4}], None, 1, id="one at least"),
        pytest.param("8", [{"count": 2}], "5", 5, id="the model's own number"),
        pytest.param("0", [{"count": 2}], None, 0, id="no bound"),
    ],
)
def test_instances_share_the_threads(
    backend: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    groups: list[dict[str, int]],
    own: str | None,
    threads: int,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", bound)
    parameters = {"intra_op_thread_count": {"string_value": own}} if own else {}
    config = {"instance_group": groups, "parameters": parameters}
    assert backend.thread_count(config) == threads


def accelerated(**parameters: str) -> dict[str, Any]:
    entry = {"name": "cuda", "parameters": parameters}
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [entry]}}}


def with_parameters(config: dict[str, Any], **values: str) -> dict[str, Any]:
    return {**config, "parameters": {k: {"string_value": v} for k, v in values.items()}}


HEURISTIC = accelerated(cudnn_conv_algo_search="HEURISTIC", do_copy_in_default_stream="0")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param({}, {}, id="nothing said"),
        pytest.param(
            HEURISTIC,
            {"cudnn_conv_algo_search": "HEURISTIC", "do_copy_in_default_stream": "0"},
            id="an accelerator's options as they are",
        ),
        pytest.param(
            with_parameters({}, cudnn_conv_algo_search="2", arena_extend_strategy="1"),
            {"cudnn_conv_algo_search": "DEFAULT", "arena_extend_strategy": "kSameAsRequested"},
            id="parameters by number",
        ),
        pytest.param(
            with_parameters({}, gpu_mem_limit="1000000000"),
            {"gpu_mem_limit": "1000000000"},
            id="a parameter as it is",
        ),
        pytest.param(
            with_parameters(HEURISTIC, cudnn_conv_algo_search="0"),
            {"cudnn_conv_algo_search": "EXHAUSTIVE", "do_copy_in_default_stream": "0"},
            id="parameters over the accelerator's",
        ),
    ],
)
def test_options_of_cuda(backend: ModuleType, config: Any, options: dict[str, str]) -> None:
    assert backend.cuda_options(config, "1") == {**options, "device_id": "1"}


@pytest.mark.parametrize(
    "step", [s.name for s in STEPS.values() if {CUDA, CUDA_GRAPH} & set(s.variants)]
)
def test_what_is_written_for_the_native_backend_means_the_same(
    backend: ModuleType, step: str
) -> None:
    file = config_file(Path(__file__).parents[2] / "model_repository" / step, CUDA.name)
    config = MessageToDict(read_config(file), preserving_proto_field_name=True)
    assert backend.cuda_options(config, "0") == {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    del config["optimization"]
    assert backend.cuda_options(config, "0")["cudnn_conv_algo_search"] == "HEURISTIC"


class RefusedError(Exception):
    """Stands for Triton's exception, which only its worker process has."""


@pytest.fixture
def refusing(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(backend.pb_utils, "TritonModelException", RefusedError, raising=False)
    return backend


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        pytest.param(
            {
                "optimization": {
                    "execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt"}]}
                }
            },
            "unknown Execution Accelerator 'tensorrt' is requested",
            id="another accelerator",
        ),
        pytest.param(
            with_parameters({}, cudnn_conv_algo_search="3"),
            "unsupported cudnn_conv_algo_search value '3' is requested",
            id="a number too high",
        ),
        pytest.param(
            with_parameters({}, arena_extend_strategy="-1"),
            "unsupported arena_extend_strategy value '-1' is requested",
            id="a number too low",
        ),
    ],
)
def test_options_that_cuda_has_not(refusing: ModuleType, config: Any, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        refusing.cuda_options(config, "0")


def test_an_instance_on_a_gpu_needs_cuda(refusing: ModuleType) -> None:
    if refusing.CUDA in onnxruntime.get_available_providers():
        assert refusing.accelerators(HEURISTIC, "0")[0][0] == refusing.CUDA
        return
    with pytest.raises(RefusedError, match=r"KIND_GPU needs CUDAExecutionProvider, and .* only"):
        refusing.accelerators(HEURISTIC, "0")


def test_an_instance_on_the_cpu_reads_no_options_of_a_gpu(backend: ModuleType) -> None:
    assert backend.accelerators(HEURISTIC) == []


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider' is not in")
def test_a_session_without_the_provider_that_was_asked_for_is_refused(
    refusing: ModuleType, tmp_path: Path
) -> None:
    """ONNX Runtime itself goes on without it, on the CPU."""
    if has_gpu():
        pytest.skip("this machine has a GPU")
    graph = "g (float[N] x) => (float[N] y) { y = Identity(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}')
    onnx.save(model, tmp_path / "model.onnx")
    asked = [(refusing.CUDA, refusing.cuda_options(HEURISTIC, "0"))]
    with pytest.raises(RefusedError, match="CUDAExecutionProvider could not be used"):
        refusing.open_session(tmp_path / "model.onnx", refusing.session_options({}), asked)


@pytest.mark.parametrize(
    ("version", "option", "value"),
    [
        pytest.param("1.31.1", "spin_duration_us", "20", id="briefly"),
        pytest.param("1.26.0", "spin_duration_us", "20", id="first that knows how long"),
        pytest.param("1.25.1", "allow_spinning", "0", id="without that not at all"),
        pytest.param("2.0.0", "spin_duration_us", "20", id="the next major"),
    ],
)
def test_idle_threads_spin_briefly(
    backend: ModuleType, version: str, option: str, value: str
) -> None:
    entries = backend.spinning(version)
    own = {name for name in entries if name.startswith("session.intra_op.")}
    assert own == {f"session.intra_op.{option}"}
    assert entries[f"session.intra_op.{option}"] == value


def test_the_limit_in_process_spins_as_the_server(backend: ModuleType) -> None:
    graph = "g (float[N] x) => (float[N] y) { y = Identity(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}')
    options = open_session(model.SerializeToString()).get_session_options()
    for name, value in backend.spinning(onnxruntime.__version__).items():
        if ".intra_op." in name:
            assert backend.session_options({}).get_session_config_entry(name) == value
            assert options.get_session_config_entry(name) == value
