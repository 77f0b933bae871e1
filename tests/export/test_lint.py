"""One wrong thing at a time, and the four parts of the line that names it."""

# ruff: noqa: E501  # a table is read row by row

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from export.__main__ import main
from export.lint import Problem, lint_repository
from export.repository.install import MANIFEST_FILE, SAM_SETTING

ROOT = Path(__file__).parents[2]
WARMUP = """model_warmup [
  {
    name: "one tile"
    batch_size: 1
    inputs { key: "network_image" value: { data_type: TYPE_UINT8 dims: [ 3, 640, 640 ] zero_data: true } }
  }
]
"""
STEP = "ensemble_scheduling.step"


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        text = (repository / file / "config.pbtxt").read_text()
        assert old in text
        (repository / file / "config.pbtxt").write_text(text.replace(old, new, 1))

    return change


def case(name: str, model: str, old: str, new: str, field: str, expected: str, found: str):
    return pytest.param(
        edit(model, old, new), f"{model}/config.pbtxt", field, expected, found, id=name
    )


CONFIG_CASES = [
    case("not a config", "yolo", "max_batch_size", "max_bach_size", "file", "Triton's schema", "max_bach_size"),
    case("name", "yolo_cells", 'name: "yolo_cells"', 'name: "cells"', "name", "'yolo_cells'", "'cells'"),
    case("backend", "yolo_cells", '"onnxruntime"', '"pytorch"', "backend", "onnxruntime or python", "'pytorch'"),
    case("platform", "yolo", 'platform: "ensemble"', 'backend: "onnxruntime"', "platform", "'ensemble'", "'onnxruntime'"),
    case("batch of a network", "yolo_cells", "max_batch_size: 64", "max_batch_size: 0", "max_batch_size", "more than 0", "0"),
    case("batch of one frame", "yolo_decode", "max_batch_size: 0", "max_batch_size: 4", "max_batch_size", "0: it sees one frame", "4"),
    case("no dynamic batching", "yolo_cells", "dynamic_batching { }", "", "dynamic_batching", "present", "absent"),
    case("dynamic batching of one frame", "cell_crops", "max_batch_size: 0", "max_batch_size: 0\ndynamic_batching { }", "dynamic_batching", "absent", "present"),
    case("no instance count", "yolo_prepare", "instance_group [ { count: 1 } ]", "", "instance_group count", "1 or more", "none"),
    case("instances of an ensemble", "yolo", "max_batch_size: 0", "max_batch_size: 0\ninstance_group [ { count: 1 } ]", "instance_group", "none on an ensemble", "[1]"),
    case("parameter of the stand-in", "nuclei_stitch", "intra_op_thread_count", "threads", "parameters", "intra_op_thread_count", "'threads'"),
    case("parameter's value", "nuclei_stitch", 'string_value: "1"', 'string_value: "all"', "parameters 'intra_op_thread_count'", "a whole number", "'all'"),
    case("no warm-up", "yolo_cells", WARMUP, "", "model_warmup", "present", "absent"),
    case("warm-up of an ensemble", "yolo", "max_batch_size: 0", "max_batch_size: 0\n" + WARMUP, "model_warmup", "absent", "present"),
    case("warm-up batch", "yolo_cells", "batch_size: 1\n", "batch_size: 65\n", "model_warmup 'one tile' batch_size", "1 to max_batch_size 64", "65"),
    case("warm-up input", "yolo_cells", 'key: "network_image"', 'key: "image"', "model_warmup 'one tile' inputs", "network_image", "image"),
    case("warm-up dtype", "yolo_cells", "TYPE_UINT8 dims: [ 3, 640, 640 ] zero", "TYPE_FP32 dims: [ 3, 640, 640 ] zero", "model_warmup 'one tile' 'network_image' data_type", "UINT8", "FP32"),
    case("warm-up dims", "yolo_cells", "dims: [ 3, 640, 640 ] zero", "dims: [ 3, 64, 64 ] zero", "model_warmup 'one tile' 'network_image' dims", "[3, 640, 640]", "[3, 64, 64]"),
    case("warm-up data", "yolo_cells", "zero_data: true", "", "model_warmup 'one tile' 'network_image' data", "zero_data", "none"),
    case("input missing", "cell_crops", '  { name: "levels" data_type: TYPE_FP32 dims: [ 2 ] },\n', "", "input", "'levels' FP32 [2]", "no such tensor"),
    case("input unknown", "yolo_card", '"page"', '"sheet"', "input", "only page", "'sheet'"),
    case("input twice", "yolo_card", "input [", 'input [\n{ name: "page" data_type: TYPE_INT64 dims: [ 1 ] },', "input", "every name once", "page, page"),
    case("input dtype", "yolo_prepare", "TYPE_UINT16", "TYPE_INT32", "input 'image' data_type", "UINT16", "INT32"),
    case("input dims", "yolo_decode", "dims: [ -1, -1, 8400 ]", "dims: [ -1, 8400 ]", "input 'predictions' dims", "[-1, -1, 8400]", "[-1, 8400]"),
    case("output dtype", "yolo_card", "TYPE_STRING", "TYPE_UINT8", "output 'card' data_type", "BYTES", "UINT8"),
    case("output dims", "yolo", "dims: [ -1, 56, 56 ]", "dims: [ -1, 28, 28 ]", "output 'masks' dims", "[-1, 56, 56]", "[-1, 28, 28]"),
    case("output missing", "cell_labels", '{ name: "labels" data_type: TYPE_UINT16 dims: [ -1, -1 ] }', "", "output", "'labels' UINT16", "no such tensor"),
    case("sides of a network's frame", "glioma_network", "dims: [ 3, -1, -1 ] }\n]", "dims: [ 3, 256, 256 ] }\n]", "input 'frame_rgb' dims", "[3, -1, -1]", "[3, 256, 256]"),
    case("sides of a network's answer", "glioma_network", '"frame_probability" data_type: TYPE_UINT8 dims: [ -1, -1 ]', '"frame_probability" data_type: TYPE_UINT8 dims: [ 256, 256 ]', "output 'frame_probability' dims", "[-1, -1]", "[256, 256]"),
    case("outputs left open by varying inputs", "glioma_network", """output [
  { name: "frame_probability" data_type: TYPE_UINT8 dims: [ -1, -1 ] }
]""", "", "output", "'frame_probability' UINT8 [-1, -1]", "no such tensor"),
    case("outputs left open though fixed", "nuclei_network", """output [
  { name: "tile_probabilities" data_type: TYPE_UINT8 dims: [ 256, 256 ] }
]""", "", "output", "'tile_probabilities' UINT8 [256, 256]", "no such tensor"),
    case("warm-up of varying sides", "glioma_network", "dims: [ 3, 256, 256 ] zero", "dims: [ 1, 256, 256 ] zero", "model_warmup 'a small frame' 'frame_rgb' dims", "[3, -1, -1]", "[1, 256, 256]"),
    case("white level not wired", "nuclei_unet", '      input_map { key: "white_level" value: "white_level" }\n', "", f"{STEP} 'nuclei_prepare' input_map", "input 'white_level'", "not wired"),
    case("response cache of a step", "yolo_decode", "max_batch_size: 0", "max_batch_size: 0 response_cache { enable: true }", "response_cache", "for network steps", "enabled"),
    case("no response cache of the encoder", "sam_encoder", "response_cache { enable: true }", "", "response_cache", "enable: true", "absent"),
    case("response cache of Python", "cell_labels", "max_batch_size: 0", "max_batch_size: 0 response_cache { enable: true }", "response_cache", "for network steps", "enabled"),
    case("response cache of an ensemble", "yolo", 'platform: "ensemble"', 'platform: "ensemble" response_cache { enable: true }', "response_cache", "for network steps", "enabled"),
    case("response cache of sequences", "yolo_cells", "dynamic_batching { }", "response_cache { enable: true } sequence_batching { }", "response_cache", "depend on earlier requests", "sequence_batching"),
    case("response cache of a stream", "yolo_cells", "dynamic_batching", "response_cache { enable: true } model_transaction_policy { decoupled: true } dynamic_batching", "response_cache", "depend on earlier requests", "decoupled"),
    case("patches of one size only", "cell_labels", "TYPE_UINT8 dims: [ -1, -1, -1 ]", "TYPE_UINT8 dims: [ -1, 56, 56 ]", "input 'cell_masks' dims", "[-1, -1, -1]", "[-1, 56, 56]"),
    case("patches of any size", "yolo_decode", '"cell_masks" data_type: TYPE_UINT8 dims: [ -1, 56, 56 ]', '"cell_masks" data_type: TYPE_UINT8 dims: [ -1, -1, -1 ]', "output 'cell_masks' dims", "[-1, 56, 56]", "[-1, -1, -1]"),
    case("step unknown", "yolo", '"yolo_targets"', '"yolo_target"', STEP, "a model of the repository", "'yolo_target'"),
    case("other step", "yolo", '"yolo_targets"', '"yolo_cells"', STEP, "yolo_prepare, yolo_targets", "yolo_prepare, yolo_cells"),
    case("old version pinned", "yolo", "model_version: -1", "model_version: 1", f"{STEP} 'yolo_prepare' model_version", "-1", "1"),
    case("input not wired", "yolo", '      input_map { key: "tiling" value: "tiling" }\n', "", f"{STEP} 'yolo_decode' input_map", "input 'tiling'", "not wired"),
    case("wire to no input", "yolo", 'input_map { key: "tiling"', 'input_map { key: "letter"', f"{STEP} 'yolo_decode' input_map", "only max_cells", "'letter'"),
    case("wire from no output", "yolo", 'output_map { key: "scores"', 'output_map { key: "score"', f"{STEP} 'yolo_decode' output_map", "only boxes", "'score'"),
    case("wire from nowhere", "yolo", 'key: "tiling" value: "tiling" }\n      input_map { key: "score', 'key: "tiling" value: "box" }\n      input_map { key: "score', f"{STEP} 'yolo_decode' input_map", "an output of an earlier step", "'box'"),
    case("wired dtype", "yolo", 'key: "max_cells" value: "max_cells"', 'key: "max_cells" value: "score_threshold"', f"{STEP} 'yolo_decode' input 'max_cells' data_type", "INT32", "FP32"),
    case("wired dims", "yolo_resnet", 'key: "levels" value: "levels" }\n      input_map', 'key: "levels" value: "tiling" }\n      input_map', f"{STEP} 'cell_crops' input 'levels' dims", "[2]", "[5]"),
    case("wired batch", "yolo_cells", "dims: [ 3, 640, 640 ] }\n]\n#", "dims: [ 1, 3, 640, 640 ] }\n]\n#", "input 'network_image' dims", "[3, 640, 640]", "[1, 3, 640, 640]"),
    case("two sources", "yolo", 'key: "boxes" value: "boxes"', 'key: "boxes" value: "scores"', "tensor 'scores'", "one source", "2"),
    case("output not made", "yolo", '      output_map { key: "cells_found" value: "cells_found" }\n', "", "output 'cells_found'", "a step that makes it", "none"),
    case("unused tensor", "yolo", 'output_map { key: "tiling" value: "tiling" }\n', 'output_map { key: "tiling" value: "tiling" }\n output_map { key: "levels" value: "levels" }\n', "tensor 'levels'", "a step that reads it", "unused"),
    case("unused input", "yolo", "output [", 'input [ { name: "gain" data_type: TYPE_FP32 dims: [ 1 ] } ]\noutput [', "tensor 'gain'", "a step that reads it", "unused"),
    case("on request reads an output", "yolo", 'input_map { key: "cell_boxes" value: "cell_boxes" }', 'input_map { key: "cell_boxes" value: "boxes" }', f"{STEP} 'cell_labels' input 'cell_boxes'", "an internal tensor", "'boxes', an output"),
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
        pytest.param(unlink("yolo/config.pbtxt"), "yolo/config.pbtxt", "file", "schema", "absent", id="no config"),
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


def test_command_names_the_problem(configs: Path) -> None:
    edit("yolo_cells", "max_batch_size: 64", "max_batch_size: 0")(configs)
    result = CliRunner().invoke(main, ["lint", "--model-repository", str(configs)])
    assert result.exit_code == 1
    assert "yolo_cells/config.pbtxt: max_batch_size: expected more than 0" in result.output
    assert f"problems in {configs}" in result.output


def test_command_on_a_clean_repository(source_repository: Path) -> None:
    result = CliRunner().invoke(main, ["lint", "--model-repository", str(source_repository)])
    assert result.exit_code == 0, result.output
