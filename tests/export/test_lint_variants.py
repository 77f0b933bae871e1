"""One wrong thing in a variant's configuration at a time, and the line that names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.lint import lint_repository

VARIANT = "yolo_cells/configs/openvino.pbtxt"
ACCELERATORS = "optimization.execution_accelerators"


FUSED = "yolo_resnet/configs/fused.pbtxt"
STEPS = "ensemble_scheduling.step"


@pytest.fixture
def with_variants(source_repository: Path, tmp_path: Path) -> Path:
    """The source tree's configurations, variants included, that a test may change."""
    return Path(shutil.copytree(source_repository, tmp_path / "model_repository"))


def test_the_source_tree_is_clean(with_variants: Path) -> None:
    assert lint_repository(with_variants) == []


@pytest.mark.parametrize(
    ("old", "new", "field", "expected"),
    [
        pytest.param("backend", "backends", "file", "Triton's schema", id="no config"),
        pytest.param(
            "max_batch_size: 64", "max_batch_size: 0", "max_batch_size", "more than 0", id="batch"
        ),
        pytest.param(
            "dynamic_batching { }",
            "dynamic_batching { max_queue_delay_microseconds: 9 }",
            "dynamic_batching",
            "{} of",
            id="queue",
        ),
        pytest.param('"openvino"', '"tensorrt"', ACCELERATORS, "'openvino'", id="accelerator"),
        pytest.param(
            '{\\"CPU\\":', '\\"CPU\\":', f"{ACCELERATORS} 'load_config'", "JSON", id="options"
        ),
        pytest.param(
            "dims: [ 3, 640, 640 ] }\n",
            "dims: [ 3, 64, 64 ] }\n",
            "input 'network_image' dims",
            "[3, 640, 640]",
            id="tensors",
        ),
    ],
)
def test_problem(with_variants: Path, old: str, new: str, field: str, expected: str) -> None:
    file = with_variants / VARIANT
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    problems = {problem.field: problem for problem in lint_repository(with_variants)}
    assert problems[field].file == file
    assert expected in problems[field].expected


@pytest.mark.parametrize(
    ("old", "new", "field", "expected", "found"),
    [
        pytest.param(
            'key: "boxes" value: "boxes"',
            'key: "boxes" value: "box"',
            "output 'boxes'",
            "a step that makes it",
            "none",
            id="an output that nobody makes",
        ),
        pytest.param(
            'input_map { key: "image" value: "image" }\n',
            "",
            f"{STEPS} 'yolo_resnet_fused' input_map",
            "input 'image'",
            "it is not wired",
            id="an input that is not wired",
        ),
        pytest.param(
            '"yolo_resnet_fused"',
            '"yolo_fused"',
            STEPS,
            "yolo_resnet_fused, cell_labels",
            "yolo_fused, cell_labels",
            id="the graph of another pipeline",
        ),
        pytest.param(
            "TYPE_INT32 dims: [ 1 ] }\n]\noutput",
            "TYPE_INT64 dims: [ 1 ] }\n]\noutput",
            "input 'max_cells' data_type",
            "INT32",
            "INT64",
            id="another tensor than the default's",
        ),
    ],
)
def test_a_variant_of_a_pipeline(
    with_variants: Path, old: str, new: str, field: str, expected: str, found: str
) -> None:
    file = with_variants / FUSED
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    problems = {problem.field: problem for problem in lint_repository(with_variants)}
    assert problems[field].file == file
    assert (problems[field].expected, problems[field].found) == (expected, found)


def test_a_variant_of_a_pipeline_fuses_its_steps(with_variants: Path) -> None:
    shutil.copy(with_variants / "yolo/config.pbtxt", with_variants / "yolo/configs/int8.pbtxt")
    [problem] = lint_repository(with_variants)
    assert problem.file == with_variants / "yolo/configs/int8.pbtxt"
    assert problem.expected == "yolo_fused, cell_labels"


def test_a_variant_of_a_pipeline_that_does_not_fuse(with_variants: Path) -> None:
    configs = with_variants / "maskrcnn/configs"
    configs.mkdir()
    shutil.copy(with_variants / "maskrcnn/config.pbtxt", configs / "fused.pbtxt")
    [problem] = lint_repository(with_variants)
    assert problem.file == configs / "fused.pbtxt"
    assert problem.found == "present"


def test_a_damaged_graph_of_a_variant(with_variants: Path) -> None:
    version = with_variants / "yolo_cells/1"
    version.mkdir(exist_ok=True)
    (version / "model.int8.onnx").write_bytes(b"\x08\x08\x12")
    problems = [p for p in lint_repository(with_variants) if p.file == version / "model.int8.onnx"]
    assert [problem.expected for problem in problems] == ["an ONNX model"]
