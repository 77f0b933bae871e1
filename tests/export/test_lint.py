"""One wrong thing at a time, and the four parts of the line that names it."""

# ruff: noqa: E501  # a table is read row by row

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from cytoserve.contract import STEPS, TENSORRT, StepVariant
from cytoserve.model_config import MANIFEST_FILE
from export.__main__ import main
from export.lint import Problem, lint_repository
from export.repository.install import SAM_SETTING

ROOT = Path(__file__).parents[2]


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        text = (repository / file).read_text()
        assert old in text
        (repository / file).write_text(text.replace(old, new, 1))

    return change


def case(name: str, file: str, old: str, new: str, field: str, expected: str, found: str):
    return pytest.param(edit(file, old, new), file, field, expected, found, id=name)


CONFIG_CASES = [
    case("batch of a network", "yolo_cells/config.pbtxt", "max_batch_size: 64", "max_batch_size: 0", "line 5", "max_batch_size: 64", "max_batch_size: 0"),
    case("a line more", "yolo/config.pbtxt", "max_batch_size: 0\n", "max_batch_size: 0\n\n", "line 6", "input [", "``"),
    case("a line too few at the end", "yolo_card/config.pbtxt", 'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n', "", "line 13", "intra_op_thread_count", "the end"),
    case("kind of an instance", "yolo_prepare/config.pbtxt", " kind: KIND_CPU", "", "line 17", "KIND_CPU", "{ count: 1 }"),
    case("a wire", "yolo/config.pbtxt", 'input_map { key: "tiling" value: "tiling" }', 'input_map { key: "tiling" value: "box" }', "line 48", 'value: "tiling"', 'value: "box"'),
    case("a variant", "yolo_cells/configs/openvino.pbtxt", '"openvino"', '"tensorrt"', "line 24", '"openvino"', '"tensorrt"'),
    case("the graph of another pipeline", "yolo_resnet/configs/single-graph.pbtxt", '"yolo_resnet_merged"', '"yolo_merged"', "line 27", '"yolo_resnet_merged"', '"yolo_merged"'),
]  # fmt: skip


def find(problems: list[Problem], file: Path, field: str) -> list[Problem]:
    return [problem for problem in problems if problem.file == file and problem.field == field]


@pytest.fixture
def configs(tmp_path: Path, source_repository: Path) -> Path:
    """A copy of the repository of the source tree."""
    return Path(shutil.copytree(source_repository, tmp_path / "model_repository"))


@pytest.mark.parametrize(("change", "file", "field", "expected", "found"), CONFIG_CASES)
def test_wrong_config(
    configs: Path,
    change: Callable[[Path], None],
    file: str,
    field: str,
    expected: str,
    found: str,
) -> None:
    change(configs)
    problems = find(lint_repository(configs), configs / file, field)
    assert problems, lint_repository(configs)
    matching = [p for p in problems if expected in p.expected and found in p.found]
    assert matching, problems
    line = str(matching[0])
    assert "\n" not in line
    assert all(part in line for part in (file, field, expected, found))


def test_source_tree_is_clean(source_repository: Path) -> None:
    assert lint_repository(source_repository) == []


def test_working_repository_is_clean() -> None:
    assert [str(problem) for problem in lint_repository(ROOT / "model_repository")] == []


def test_exported_repository_is_clean(exported_repository: Path) -> None:
    assert [str(problem) for problem in lint_repository(exported_repository)] == []


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def truncate(repository: Path) -> None:
    file = repository / "yolo_prepare" / "1" / "model.onnx"
    replace(file, file.read_bytes()[:-100])


def swap_graph(repository: Path) -> None:
    """A sound graph of another step, with a manifest to match."""
    version = repository / "yolo_prepare" / "1"
    content = (repository / "cell_crops" / "1" / "model.onnx").read_bytes()
    replace(version / "model.onnx", content)
    edit_manifest(version, {"model.onnx": hashlib.sha256(content).hexdigest()})


def fix_dim(repository: Path) -> None:
    version = repository / "cell_crops" / "1"
    model = onnx.load(version / "model.onnx")
    model.graph.input[2].type.tensor_type.shape.dim[0].dim_value = 7
    replace(version / "model.onnx", model.SerializeToString())
    edit_manifest(
        version, {"model.onnx": hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()}
    )


def fix_side(repository: Path) -> None:
    """A network for frames of one height only."""
    version = repository / "glioma_network" / "1"
    model = onnx.load(version / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 256
    replace(version / "model.onnx", model.SerializeToString())
    edit_manifest(
        version, {"model.onnx": hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()}
    )


def edit_manifest(version: Path, sha256: dict[str, str]) -> None:
    content = json.loads((version / MANIFEST_FILE).read_text())
    (version / MANIFEST_FILE).write_text(json.dumps({**content, "sha256": sha256}))


def unlink(file: str) -> Callable[[Path], None]:
    return lambda repository: (repository / file).unlink()


def write(file: str, content: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        (repository / file).parent.mkdir(exist_ok=True, parents=True)
        (repository / file).write_text(content)

    return change


def remove(folder: str) -> Callable[[Path], None]:
    return lambda repository: shutil.rmtree(repository / folder)


def wrong_hash(repository: Path) -> None:
    edit_manifest(repository / "cell_crops" / "1", {"model.onnx": "0" * 64})


SMALL = {"side": 512, "embedding": [64, 32, 32]}
LARGE = {"side": 1024, "embedding": [256, 64, 64]}


@pytest.mark.parametrize(
    ("sams", "wrong"),
    [
        pytest.param(
            {"sam_prepare": SMALL, "sam_encoder": SMALL, "sam_decoder": SMALL}, [], id="one"
        ),
        pytest.param({"sam_encoder": LARGE, "sam_decoder": SMALL}, ["sam_decoder"], id="decoder"),
        pytest.param({"sam_prepare": SMALL, "sam_encoder": LARGE}, ["sam_encoder"], id="prepared"),
        pytest.param({"sam_decoder": SMALL}, [], id="alone"),
    ],
)
def test_steps_of_different_sams(configs: Path, sams: dict[str, object], wrong: list[str]) -> None:
    for name, sam in sams.items():
        settings = {"settings": {SAM_SETTING: sam}}
        write(f"{name}/1/manifest.json", json.dumps(settings))(configs)
    field = f"settings '{SAM_SETTING}'"
    problems = [problem for problem in lint_repository(configs) if problem.field == field]
    assert {problem.file for problem in problems} == {
        configs / name / "1" / MANIFEST_FILE for name in wrong
    }
    assert all("from one checkpoint" in str(problem) for problem in problems)


@pytest.mark.parametrize(
    ("change", "file", "field", "expected", "found"),
    [
        pytest.param(unlink("yolo/config.pbtxt"), "yolo/config.pbtxt", "file", "python -m export configs", "absent", id="no config"),
        pytest.param(unlink("yolo/configs/single-graph.pbtxt"), "yolo/configs/single-graph.pbtxt", "file", "python -m export configs", "absent", id="no config of a variant"),
        pytest.param(write("maskrcnn/configs/single-graph.pbtxt", ""), "maskrcnn/configs/single-graph.pbtxt", "file", "no such variant", "present", id="a variant that the contract has not"),
        pytest.param(write("yolo_cells/1/model.int8.onnx", "damaged"), "yolo_cells/1/model.int8.onnx", "file", "an ONNX model", "damaged", id="damaged graph of a variant"),
        pytest.param(write("stray/notes.txt", ""), "stray", "folder", "a step, pipeline or card", "unknown", id="extra folder"),
        pytest.param(write(".staging/yolo/model.onnx", ""), ".staging", "folder", "absent", "cut off", id="staging left over"),
        pytest.param(truncate, "yolo_prepare/1/model.onnx", "file", "an ONNX model", "damaged", id="truncated graph"),
        pytest.param(truncate, "yolo_prepare/1/model.onnx", "sha256", "of its manifest", "", id="truncated graph's hash"),
        pytest.param(unlink("yolo_prepare/1/model.onnx"), "yolo_prepare/1/model.onnx", "file", "present", "absent", id="no graph"),
        pytest.param(swap_graph, "yolo_prepare/1/model.onnx", "output", "'network_image' UINT8", "no such tensor", id="graph of another step"),
        pytest.param(fix_dim, "cell_crops/1/model.onnx", "input 'cell_boxes' dims", "[-1, 4]", "[7, 4]", id="dim fixed in the graph"),
        pytest.param(fix_side, "glioma_network/1/model.onnx", "input 'frame_rgb' dims", "[-1, 3, -1, -1]", "[-1, 3, 256, -1]", id="side fixed in the graph"),
        pytest.param(wrong_hash, "cell_crops/1/model.onnx", "sha256", "0000", "", id="wrong sha256"),
        pytest.param(unlink("cell_crops/1/manifest.json"), "cell_crops/1/manifest.json", "file", "the manifest", "absent", id="no manifest"),
        pytest.param(write("cell_crops/1/manifest.json", "{"), "cell_crops/1/manifest.json", "file", "the manifest", "no JSON", id="damaged manifest"),
        pytest.param(write("cell_crops/1/extra.bin", ""), "cell_crops/1/manifest.json", "sha256 'extra.bin'", "an entry", "none", id="unlisted file"),
        pytest.param(unlink("cell_labels/1/model.py"), "cell_labels/1/model.py", "file", "present", "absent", id="no adapter"),
        pytest.param(unlink("yolo/1/card.json"), "yolo/1/card.json", "file", "present", "absent", id="no card file"),
        pytest.param(remove("cell_crops/1"), "cell_crops", "version", "a numbered folder", "python -m export yolo_resnet", id="step not exported"),
        pytest.param(swap_graph, "yolo/1/card.json", "models 'yolo_prepare' sha256", "python -m export yolo", "", id="card of older models"),
    ],
)  # fmt: skip
def test_wrong_version(
    repository: Path,
    change: Callable[[Path], None],
    file: str,
    field: str,
    expected: str,
    found: str,
) -> None:
    change(repository)
    problems = find(lint_repository(repository), repository / file, field)
    assert any(expected in p.expected and found in p.found for p in problems), (
        problems or lint_repository(repository)
    )


def test_a_plan_takes_no_camera_values(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = StepVariant(TENSORRT, on_gpu=True, plan_rows=(1, 1, 1))
    step = replace_fields(STEPS["yolo_prepare"], variants=(planned,))
    monkeypatch.setitem(STEPS, step.name, step)
    (configs / step.name / "1").mkdir()
    field = "input 'image' data_type"
    [problem] = find(lint_repository(configs), configs / step.name / "config.pbtxt", field)
    assert (problem.expected, problem.found) == ("one that TensorRT has", "UINT16")


def test_command_names_the_problem(configs: Path) -> None:
    edit("yolo_cells/config.pbtxt", "max_batch_size: 64", "max_batch_size: 0")(configs)
    result = CliRunner().invoke(main, ["lint", "--model-repository", str(configs)])
    assert result.exit_code == 1
    assert "yolo_cells/config.pbtxt: line 5: expected `max_batch_size: 64`" in result.output
    assert f"problems in {configs}" in result.output


def test_command_on_a_clean_repository(source_repository: Path) -> None:
    result = CliRunner().invoke(main, ["lint", "--model-repository", str(source_repository)])
    assert result.exit_code == 0, result.output
