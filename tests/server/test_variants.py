"""Variants of the repository: which are refused and why, and what the server then serves."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient, InferInput

from cytoserve.contract import PIPELINES
from cytoserve.gpu import has_gpu
from cytoserve.grpc_transport import GrpcTransport
from server.embedded import EmbeddedServer
from server.errors import RepositoryError, VariantError
from server.installation import find_installation, worker_environment
from server.repository import models_of_variant, survey
from server.tritonserver import workers_of
from server.variants import (
    CUDA_FOLDER,
    OPENVINO_FOLDER,
    VARIANTS,
    check_machine,
    has_runtime,
    processor_instructions,
    runtime_folder,
    runtime_libraries,
)

BF16 = r"""parameters {
  key: "load_config" value: "{\"CPU\": {\"INFERENCE_PRECISION_HINT\": \"bf16\"}}"
}"""


def openvino_folder(folder: Path, abi: str) -> Path:
    """A folder with the library of ONNX Runtime's Python module, by name."""
    library = folder / f"onnxruntime/capi/onnxruntime_pybind11_state.{abi}.so"
    library.parent.mkdir(parents=True)
    library.touch()
    return folder


def skip_unless_served(name: str) -> None:
    try:
        check_machine(VARIANTS[name], processor_instructions())
    except VariantError as error:
        pytest.skip(str(error))


def add_variant(repository: Path, model: str, variant: str, more: str) -> None:
    configs = repository / model / "configs"
    configs.mkdir()
    default = (repository / model / "config.pbtxt").read_text()
    (configs / f"{variant}.pbtxt").write_text(f"{default}\n{more}")


# -- The machine ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("variant", "instructions", "reason"),
    [
        pytest.param("int8", {"avx2", "avx512_vnni"}, None, id="VNNI of servers"),
        pytest.param("int8", {"avx_vnni"}, None, id="VNNI of desktops"),
        pytest.param("int8", {"avx2"}, "needs a processor with avx512_vnni or avx_vnni", id="none"),
        pytest.param("throughput", set(), None, id="any processor"),
        pytest.param("openvino", {"amx_bf16"}, None, id="AMX"),
        pytest.param("openvino", {"avx512_bf16"}, None, id="AVX512"),
        pytest.param("openvino", {"avx512_vnni"}, "avx512_bf16 or amx_bf16", id="no bfloat16"),
    ],
)
def test_instructions(
    tmp_path: Path, variant: str, instructions: set[str], reason: str | None
) -> None:
    installed = openvino_folder(tmp_path, str(sysconfig.get_config_var("SOABI")))
    if reason is None:
        check_machine(VARIANTS[variant], instructions, installed)
        return
    with pytest.raises(VariantError, match=reason):
        check_machine(VARIANTS[variant], instructions, installed)


@pytest.mark.parametrize("abi", [None, "cpython-27m-x86_64-linux-gnu"])
def test_openvino_of_another_python_or_none(tmp_path: Path, abi: str | None) -> None:
    if abi:
        openvino_folder(tmp_path, abi)
    with pytest.raises(VariantError, match="make openvino"):
        check_machine(VARIANTS["openvino"], {"avx512_bf16"}, tmp_path)


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_cuda_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "server", "--variant", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "Variant cuda needs an NVIDIA GPU: the NVIDIA driver " in line
    assert "Serve with --variant default" in line


@pytest.mark.skipif(not has_gpu(), reason="this machine has no GPU")
def test_with_a_gpu_cuda_needs_its_runtime(tmp_path: Path) -> None:
    with pytest.raises(VariantError, match="make cuda"):
        check_machine(VARIANTS["cuda"], set(), cuda=tmp_path)


def test_tensorrt_is_served_in_nvidias_image() -> None:
    reason = r"NVIDIA's image .* tritonserver --model-config-name=tensorrt.*--variant cuda"
    with pytest.raises(VariantError, match=reason):
        check_machine(VARIANTS["tensorrt"], set())


def test_a_variant_brings_its_own_onnxruntime_and_libraries(tmp_path: Path) -> None:
    assert runtime_folder(VARIANTS["cuda"]) == CUDA_FOLDER
    assert runtime_folder(VARIANTS["openvino"]) == OPENVINO_FOLDER
    assert runtime_folder(VARIANTS["int8"]) is None
    assert runtime_folder(None) is None
    for folder in ("cudnn/lib", "cu13/lib", "cu13/include"):
        (tmp_path / "nvidia" / folder).mkdir(parents=True)
    libraries = runtime_libraries(tmp_path)
    assert libraries == (tmp_path / "nvidia/cu13/lib", tmp_path / "nvidia/cudnn/lib")
    found = worker_environment(find_installation(), {"LD_LIBRARY_PATH": "/mine"}, libraries)
    paths = found["LD_LIBRARY_PATH"].split(":")
    assert paths[-3:] == [*map(str, libraries), "/mine"]
    assert runtime_libraries(None) == ()


@pytest.mark.parametrize("abi", [None, "cpython-27m-x86_64-linux-gnu", "own"])
def test_a_runtime_is_built_for_one_python(tmp_path: Path, abi: str | None) -> None:
    own = str(sysconfig.get_config_var("SOABI"))
    if abi:
        openvino_folder(tmp_path, own if abi == "own" else abi)
    assert has_runtime(tmp_path) == (abi == "own")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "processor : 0\nflags\t\t: fpu avx2 avx_vnni\n\nflags : fpu\n",
            {"fpu", "avx2", "avx_vnni"},
        ),
        ("processor : 0\nFeatures : asimd bf16\n", set()),
    ],
    ids=["x86", "ARM"],
)
def test_processor_instructions(tmp_path: Path, text: str, found: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_instructions(tmp_path / "cpuinfo") == found
    assert processor_instructions(tmp_path / "absent") == set()


# -- The repository -------------------------------------------------------------------------------
def test_a_graph_of_a_variant_is_missed_in_the_version_that_is_served(own_repository: Path) -> None:
    cells = own_repository / "yolo_cells"
    add_variant(own_repository, "yolo_cells", "int8", 'default_model_filename: "model.int8.onnx"')
    shutil.copy(cells / "1/model.onnx", cells / "1/model.int8.onnx")
    assert survey(own_repository, ["yolo"], "int8")[0].missing == ()

    (cells / "2").mkdir()
    shutil.copy(cells / "1/model.onnx", cells / "2/model.onnx")
    [export] = survey(own_repository, ["yolo"], "int8")
    assert export.missing == ("yolo_cells/<version>/model.int8.onnx",)
    assert export.command == "python -m export int8"
    assert survey(own_repository, ["yolo"])[0].missing == ()

    (cells / "2/model.onnx").unlink()
    [export] = survey(own_repository, ["yolo"], "int8")
    assert export.command == "python -m export yolo", "what the variant is made of comes first"


def test_a_plan_of_any_gpu_is_there_or_is_missed(own_repository: Path) -> None:
    cells = own_repository / "yolo_cells"
    names = 'cc_model_filenames { key: "9.0" value: "model.sm90.plan" }'
    add_variant(own_repository, "yolo_cells", "tensorrt", names)
    config = cells / "configs/tensorrt.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"tensorrt"'))
    [export] = survey(own_repository, ["yolo"], "tensorrt")
    assert export.missing == ("yolo_cells/<version>/model.plan",)
    assert export.command == "python -m export tensorrt"
    (cells / "1/model.sm90.plan").touch()
    assert survey(own_repository, ["yolo"], "tensorrt")[0].missing == ()
    config.write_text(
        config.read_text().replace(names, 'default_model_filename: "model.cuda.onnx"')
    )
    assert survey(own_repository, ["yolo"], "tensorrt")[0].command == "python -m export cuda"


def test_a_merged_graph_is_made_with_its_pipeline(own_repository: Path) -> None:
    merged = own_repository / "yolo_merged"
    shutil.copytree(own_repository / "yolo_cells", merged)
    (own_repository / "yolo/configs").mkdir()
    default = (own_repository / "yolo/config.pbtxt").read_text()
    variant = default.replace('"yolo_cells"', '"yolo_merged"')
    (own_repository / "yolo/configs/single-graph.pbtxt").write_text(variant)
    assert survey(own_repository, ["yolo"], "single-graph")[0].missing == ()

    (merged / "1/model.onnx").unlink()
    [export] = survey(own_repository, ["yolo"], "single-graph")
    assert export.missing == ("yolo_merged/<version>/model.onnx",)
    assert export.command == "python -m export yolo"
    assert survey(own_repository, ["yolo"])[0].missing == ()


def test_models_of_a_variant() -> None:
    source = Path(__file__).parents[2] / "model_repository"
    found = models_of_variant(source, [PIPELINES["yolo_resnet"]], "int8")
    assert found == ("yolo_cells", "resnet50_cells")
    assert models_of_variant(source, [PIPELINES["yolo"]], "single-graph") == ("yolo",)
    with pytest.raises(RepositoryError, match=r"configs/int8\.pbtxt.*would change nothing"):
        models_of_variant(source, [PIPELINES["glioma_unet"]], "int8")


def test_an_unknown_variant_is_refused_with_those_there_are() -> None:
    command = [sys.executable, "-m", "server", "--variant", "int4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'int4' is not one of 'default', 'openvino', 'int8'" in done.stderr


# -- The server -----------------------------------------------------------------------------------
def test_a_variant_configures_the_models_that_have_it(own_repository: Path) -> None:
    skip_unless_served("int8")
    cells = own_repository / "yolo_cells"
    add_variant(own_repository, "yolo_cells", "int8", 'default_model_filename: "model.int8.onnx"')
    (cells / "1/model.onnx").rename(cells / "1/model.int8.onnx")
    (cells / "1/model.onnx").write_bytes(b"not what the variant serves")
    with EmbeddedServer(own_repository, ["yolo"], variant="int8") as server:
        assert "Variant int8 of yolo_cells; all other models as by default." in server.output
        client = InferenceServerClient(server.url)
        configs = {
            name: client.get_model_config(name, as_json=True)["config"]
            for name in ("yolo_cells", "yolo_wait")
        }
        client.close()
        transport = GrpcTransport(server.url)
        told = asyncio.run(transport.execution("yolo_cells", 10.0))
        usual = asyncio.run(transport.execution("yolo_wait", 10.0))
        asyncio.run(transport.close())
    assert configs["yolo_cells"]["default_model_filename"] == "model.int8.onnx"
    assert configs["yolo_wait"]["default_model_filename"] == "model.py"
    assert (told, usual) == ("model.int8.onnx", ""), "so a client sees that results may differ"


def test_instances_for_many_clients(own_repository: Path) -> None:
    one_more = "instance_group { count: 1 }"
    add_variant(own_repository, "yolo_cells", "throughput", one_more)
    with EmbeddedServer(own_repository, ["yolo"], variant="throughput") as server:
        [triton] = [p for p in psutil.Process(server.pid).children() if workers_of(p.pid)]
        models = [worker.model for worker in workers_of(triton.pid).values()]
    assert models.count("yolo_cells") == 2
    assert models.count("yolo_wait") == 1


@pytest.fixture
def rounding_repository(own_repository: Path) -> Path:
    """The model `rounding` is a matrix product, which the variant computes in bfloat16."""
    weights = np.full((64, 64), 1.001, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = own_repository / "rounding"
    (model / "1").mkdir(parents=True)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), model / "1/model.onnx")
    (model / "config.pbtxt").write_text('backend: "onnxruntime"\ninstance_group { count: 1 }\n')
    accelerator = f'cpu_execution_accelerator [ {{ name: "openvino" {BF16} }} ]'
    more = f"optimization {{ execution_accelerators {{ {accelerator} }} }}"
    add_variant(own_repository, "rounding", "openvino", more)
    add_variant(own_repository, "yolo_cells", "openvino", "")
    return own_repository


def test_openvino_computes_in_bfloat16(rounding_repository: Path) -> None:
    skip_unless_served("openvino")
    rows = np.full((3, 64), 1.001, np.float32)
    given = InferInput("x", rows.shape, "FP32").set_data_from_numpy(rows)
    options = ["--", "--load-model=rounding"]
    with EmbeddedServer(
        rounding_repository, ["yolo"], variant="openvino", options=options
    ) as server:
        client = InferenceServerClient(server.url)
        found = client.infer("rounding", [given]).as_numpy("y")
        client.close()
    exact = 64 * 1.001**2
    assert found.shape == (3, 64)
    # 1.001 lies between two numbers of bfloat16, 1 and 1.0078.
    assert found == pytest.approx(np.full((3, 64), 64.0), rel=1e-3)
    assert abs(found - exact).min() > 0.05
