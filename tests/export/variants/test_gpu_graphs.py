"""Graphs and plans for NVIDIA GPUs: made, proven, and refused where they do not fit."""

# ruff: noqa: E501  # a table is read row by row

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from cytoserve.contract import CUDA, CUDA_GRAPH, PLAN_GRAPH, STEPS, TENSORRT, plan_file
from cytoserve.gpu import has_gpu
from cytoserve.model_config import MANIFEST_FILE, config_file, files_of, read_config
from export.__main__ import main
from export.graphs.files import open_session
from export.graphs.tensorrt_engine import RTX
from export.lint import lint_repository
from export.repository.bundle import NotExportedError, write_bundle
from export.repository.install import Staging
from export.sam.steps import sam_encoder
from export.unet.steps import nuclei_network
from export.variants.gpu_proof import GpuProofError, in_half, noise, prove
from export.variants.plans import PlanError, compared, misfit, plan_key
from export.variants.tensorrt import manifest_of, plan_profiles, steps_with_plan
from training.rendered import RenderSettings, render_frame
from training.sam.network import build_sam
from training.sam.settings import TINY

SAM, TILES = "sam_encoder", "nuclei_network"


@pytest.fixture(scope="module")
def made(
    source_repository: Path, tmp_path_factory: pytest.TempPathFactory, make_random_unet: Any
) -> Path:
    """A repository with SAM's encoder, which has a plan, and the nuclei's network, which has none;
    with their graphs for GPUs. Not to be changed, see `repository`."""
    repository = tmp_path_factory.mktemp("gpu") / "model_repository"
    shutil.copytree(source_repository, repository)
    frame = render_frame(RenderSettings(height=256, width=256, cells=12), 0)[0]
    with Staging(repository) as staging:
        staged = [
            staging.add_graph(step.name, step.graph, {"settings": step.settings})
            for step in (sam_encoder(build_sam(TINY)), nuclei_network(make_random_unet(frame)))
        ]
        staging.install(staged)
    for command in (["tensorrt", "--form"], ["cuda"]):
        run(repository, *command)
    return repository


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model_repository"))


def run(repository: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, [*arguments, "--model-repository", str(repository)])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def version(repository: Path, name: str = SAM) -> Path:
    return repository / name / "1"


# -- Graphs ---------------------------------------------------------------------------------------
def test_the_commands_add_proven_graphs(made: Path) -> None:
    assert not (version(made, TILES) / PLAN_GRAPH).exists(), "it has no plan"
    for name, file in ((SAM, PLAN_GRAPH), (SAM, CUDA_GRAPH.graph), (TILES, CUDA_GRAPH.graph)):
        manifest = manifest_of(version(made, name))
        about = manifest["variants"][file]
        assert file in manifest["sha256"]
        assert about["precision"] == "float16"
        assert set(about["parity"]) == {
            f"{rows} rows, {kind}" for rows in (1, 3) for kind in ("float32", "float16")
        }
        exact = [v for key, each in about["parity"].items() if "32" in key for v in each.values()]
        halved = [v for key, each in about["parity"].items() if "16" in key for v in each.values()]
        assert max(exact) <= 1e-6
        assert min(halved) > 0
        graph = onnx.load(version(made, name) / str(file))
        operators = {node.op_type for node in graph.graph.node}
        loop = {PLAN_GRAPH: set(), "model.cuda.onnx": {"Scan" if name == SAM else "Loop"}}
        assert operators & {"Scan", "Loop"} == loop[str(file)]
    assert lint_repository(made) == []


def test_a_graph_for_a_gpu_takes_any_number_of_rows(made: Path) -> None:
    session = open_session(version(made, TILES) / str(CUDA_GRAPH.graph))
    for rows in (0, 1, 65):
        given = noise(STEPS[TILES], rows, {})
        small = {name: array[:, :, :256, :256] for name, array in given.items()}
        assert session.run(None, small)[0].shape == (rows, 256, 256)


def test_single_precision(repository: Path) -> None:
    run(repository, "tensorrt", "--form", "--precision", "fp32", "--pipeline", "sam_prompt")
    manifest = manifest_of(version(repository))
    assert manifest["variants"][PLAN_GRAPH]["precision"] == "float32"
    assert set(manifest["variants"][PLAN_GRAPH]["parity"]) == {"1 rows, float32", "3 rows, float32"}
    weights = onnx.load(version(repository) / PLAN_GRAPH).graph.initializer
    assert TensorProto.FLOAT16 not in {weight.data_type for weight in weights}
    assert lint_repository(repository) == []


def test_a_step_without_a_plan_is_none_of_tensorrt(repository: Path) -> None:
    told = run(repository, "tensorrt", "--form", "--pipeline", "nuclei_unet", code=1)
    assert f"TensorRT runs {', '.join(steps_with_plan())}, and none of them is exported" in told


def test_nothing_exported(source_repository: Path) -> None:
    assert "none of yolo_cells" in run(source_repository, "cuda", code=1)
    assert "none of them is exported" in run(source_repository, "tensorrt", "--form", code=1)


@pytest.mark.parametrize("wrong", ["weights", "float16"])
def test_a_graph_that_answers_otherwise_is_refused(made: Path, wrong: str) -> None:
    source = version(made, TILES) / "model.onnx"
    graph = onnx.load(version(made, TILES) / str(CUDA_GRAPH.graph))
    [loop] = [node for node in graph.graph.node if node.op_type == "Loop"]
    weights = [w for w in loop.attribute[0].g.initializer if w.data_type == TensorProto.FLOAT16]
    largest = max(weights, key=lambda weight: len(weight.raw_data))
    values = onnx.numpy_helper.to_array(largest) * np.float16(1.5)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    if wrong == "weights":
        with pytest.raises(GpuProofError, match="tile_probabilities deviates by"):
            prove(TILES, source, graph, {})
        return
    with pytest.raises(GpuProofError, match=r"float16, 1 rows of noise.*--precision fp32"):
        prove(TILES, source, graph, {}, half_of=onnx.load(source))


def test_a_graph_in_float16_stays_as_it_is(made: Path) -> None:
    graph = onnx.load(version(made) / PLAN_GRAPH)
    assert in_half(graph) is graph


@pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="TensorRT-RTX is not installed")
def test_check_parses_and_builds(repository: Path) -> None:
    assert f"{SAM}: parsed and built, " in run(repository, "tensorrt", "--check")
    (version(repository) / PLAN_GRAPH).unlink()
    assert f"{SAM}: parsed and built, " in run(repository, "tensorrt", "--check")
    shutil.copy(version(repository) / "model.onnx", version(repository) / PLAN_GRAPH)
    told = run(repository, "tensorrt", "--check", code=1)
    assert f"{SAM}: the parser refuses {PLAN_GRAPH}: " in told


# -- Plans ----------------------------------------------------------------------------------------
@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("option", [(), ("--fits",)])
def test_without_a_gpu_a_plan_is_refused(repository: Path, option: tuple[str, ...]) -> None:
    told = run(repository, "tensorrt", *option, code=1)
    assert told.startswith("Error: No GPU here: the NVIDIA driver ")
    assert "There, run: python -m export tensorrt" in told
    assert not list(repository.glob("*/*/*.plan"))


@dataclasses.dataclass
class Planned:
    """A version with a file in the place of a plan, and the key that it should have."""

    version: Path
    file: str
    key: dict[str, Any]

    def reason(self) -> str:
        return misfit(self.version, manifest_of(self.version), self.file, self.key)


@pytest.fixture
def planned(repository: Path) -> Planned:
    folder, file = version(repository), plan_file("9.0")
    manifest = manifest_of(folder)
    profiles = plan_profiles(STEPS[SAM], manifest)
    key = plan_key(folder / PLAN_GRAPH, manifest, profiles, "11.4.0.106", "9.0")
    with Staging(repository) as staging:
        staging.add_to_newest(SAM, file, b"bytes of a plan", {"key": key})
    return Planned(folder, file, key)


def test_a_plan_that_fits(planned: Planned, repository: Path) -> None:
    assert planned.reason() == ""
    assert planned.key["profiles"] == {
        "sam_image": [[rows, 4, 512, 512] for rows in STEPS[SAM].variants[-1].plan_rows or ()]
    }
    assert planned.key["precision"] == "float16"
    assert lint_repository(repository) == []


def other(part: str, value: str) -> Callable[[Planned], None]:
    return lambda planned: planned.key.update({part: value})


def remake_graph(planned: Planned) -> None:
    with (planned.version / PLAN_GRAPH).open("ab") as opened:
        opened.write(b"\x00")
    manifest = manifest_of(planned.version)
    profiles = plan_profiles(STEPS[SAM], manifest)
    planned.key = plan_key(planned.version / PLAN_GRAPH, manifest, profiles, "11.4.0.106", "9.0")


def rename(planned: Planned) -> None:
    planned.file = plan_file("8.6")


def damage(planned: Planned) -> None:
    (planned.version / planned.file).write_bytes(b"bytes of a flan")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(other("tensorrt", "11.5.0.1"), "tensorrt 11.4.0.106, and here it is 11.5.0.1", id="another TensorRT"),
        pytest.param(other("compute_capability", "8.6"), "compute_capability 9.0, and here it is 8.6", id="another GPU"),
        pytest.param(other("precision", "float32"), "made for precision float16", id="another precision"),
        pytest.param(other("profiles", "{}"), "made for profiles", id="other shapes"),
        pytest.param(remake_graph, "made for graph_sha256", id="another graph"),
        pytest.param(rename, "there is no model.sm86.plan; there is model.sm90.plan for other GPUs", id="a plan of another GPU alone"),
        pytest.param(damage, "model.sm90.plan is damaged", id="a damaged plan"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit(
    planned: Planned, change: Callable[[Planned], None], reason: str
) -> None:
    change(planned)
    assert reason in planned.reason()


def test_lint_finds_a_plan_of_another_graph_or_of_other_batches(
    planned: Planned, repository: Path
) -> None:
    manifest = manifest_of(planned.version)
    key = manifest["variants"][planned.file]["key"]
    key["profiles"]["sam_image"][2][0] = 3
    key["graph_sha256"] = "0" * 64
    (planned.version / MANIFEST_FILE).write_text(json.dumps(manifest))
    problems = {problem.field: problem for problem in lint_repository(repository)}
    assert set(problems) == {"profile of 'sam_image'", "graph_sha256"}
    assert problems["profile of 'sam_image'"].found == "3 rows"
    assert problems["profile of 'sam_image'"].expected.endswith(", 4")


def test_a_plan_that_answers_otherwise_is_refused() -> None:
    expected = {"sam_embedding": np.ones((1, 2, 3, 3), np.float32)}
    assert compared(SAM, expected, expected) == {"sam_embedding": 0.0}
    with pytest.raises(PlanError, match=r"sam_embedding deviates by 0\.5.*--form --precision fp32"):
        compared(SAM, expected, {"sam_embedding": expected["sam_embedding"] * 1.5})


# -- Where the files are looked for ---------------------------------------------------------------
def test_a_configuration_with_plans_names_them(source_repository: Path) -> None:
    files = files_of(read_config(config_file(source_repository / SAM, TENSORRT)))
    assert plan_file("9.0") in files
    assert files[-1] == "model.plan"
    assert files_of(read_config(config_file(source_repository / SAM, CUDA.name))) == (
        CUDA_GRAPH.graph,
    )
    assert files_of(read_config(source_repository / "yolo/config.pbtxt")) == ()


@pytest.mark.parametrize(
    ("variant", "gone", "command"),
    [
        pytest.param(TENSORRT, plan_file("9.0"), "python -m export tensorrt", id="plan"),
        pytest.param(CUDA.name, str(CUDA_GRAPH.graph), "python -m export cuda", id="graph"),
    ],
)
def test_a_bundle_misses_what_a_gpu_loads(
    planned: Planned, repository: Path, tmp_path: Path, variant: str, gone: str, command: str
) -> None:
    for model in ("sam_prepare", "sam_decoder", "sam_prompt_card"):
        (repository / model / "1").mkdir()
        (repository / model / "1/model.onnx").touch()
    (repository / "sam_prompt/1").mkdir()
    write_bundle(repository, tmp_path / "whole", ["sam_prompt"], variant)
    assert (tmp_path / "whole" / SAM / "1" / gone).is_file()
    (planned.version / gone).unlink()
    with pytest.raises(NotExportedError, match=f"Make it with: {command}$"):
        write_bundle(repository, tmp_path / "part", ["sam_prompt"], variant)
