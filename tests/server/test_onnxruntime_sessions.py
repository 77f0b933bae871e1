"""What the `onnxruntime` backend makes of a configuration before it opens a session."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import onnx.parser
import onnxruntime
import pytest

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
