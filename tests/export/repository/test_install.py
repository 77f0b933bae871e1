"""Versions appear complete or not at all, whatever happens to the export."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cytoserve.model_config import versions
from export.parity import instances
from export.parity.steps import ParityError
from export.repository import pipelines
from export.repository.install import (
    MANIFEST_FILE,
    MODEL_FILE,
    STAGING,
    RepositoryBusyError,
    Staging,
)
from export.repository.pipelines import ExportedPipeline, install_pipeline
from export.resnet import steps as resnet_steps
from export.yolo import steps
from export.yolo.steps import yolo_pipeline
from training.yolo.network import load_network

Read = Callable[[str], ExportedPipeline]


@pytest.fixture(autouse=True)
def one_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """At lower thresholds, random networks find thousands of cells, which takes long to compare."""
    for module in (instances, pipelines):
        monkeypatch.setattr(module, "THRESHOLDS", (0.5,))


def listing(repository: Path) -> dict[str, int]:
    """File -> its inode, so that a file written anew shows."""
    return {str(p.relative_to(repository)): p.stat().st_ino for p in repository.rglob("*")}


def graph(value: float) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    constant = helper.make_tensor("y", TensorProto.FLOAT, [], [value])
    node = helper.make_node("Constant", [], ["y"], value=constant)
    return helper.make_model(helper.make_graph([node], "g", [], [output]))


def install_one(repository: Path, value: float) -> Path:
    with Staging(repository) as staging:
        return staging.install([staging.add_graph("model", graph(value), {})])[0]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path


def test_versions_count_up_and_two_are_kept(empty: Path) -> None:
    assert [install_one(empty, value).name for value in (1, 2, 3)] == ["1", "2", "3"]
    assert versions(empty / "model") == [2, 3]
    assert not (empty / STAGING).exists()


def test_the_same_files_are_no_new_version(empty: Path) -> None:
    first = install_one(empty, 1)
    before = listing(empty)
    assert install_one(empty, 1) == first
    assert listing(empty) == before


@pytest.mark.parametrize("file", [MODEL_FILE, MANIFEST_FILE])
def test_a_damaged_version_is_replaced(empty: Path, file: str) -> None:
    (install_one(empty, 1) / file).unlink()
    assert install_one(empty, 1).name == "2"


def test_nothing_appears_when_staging_fails(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    def save(_: onnx.ModelProto, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    install_one(empty, 1)
    before = listing(empty)
    monkeypatch.setattr(onnx, "save", save)
    with pytest.raises(OSError, match="No space"):
        install_one(empty, 2)
    assert listing(empty) == before


def test_one_export_at_a_time(empty: Path) -> None:
    with Staging(empty) as staging:
        staged = staging.add_graph("model", graph(1), {})
        with pytest.raises(RepositoryBusyError, match="another export is writing"):
            Staging(empty).__enter__()
        assert (staged.folder / MODEL_FILE).is_file()
        staging.install([staged])
    install_one(empty, 2)


def test_exporting_again_gives_no_new_version(
    repository: Path, exported_pipeline: Read, frames: dict[str, np.ndarray]
) -> None:
    before = listing(repository)
    folders = install_pipeline(exported_pipeline("yolo"), repository, frames, ["x"], str)
    assert {folder.name for folder in folders} == {"1"}
    assert listing(repository) == before


@pytest.mark.parametrize("name", ["yolo_prepare", "yolo_decode", "cell_crops", "yolo_targets"])
def test_a_graph_is_the_same_bytes_again(
    exported_repository: Path, checkpoints: Path, name: str
) -> None:
    if name == "yolo_targets":
        step = steps.yolo_network(name, load_network(checkpoints / "targets")[0])
    else:
        family = resnet_steps if name == "cell_crops" else steps
        step = getattr(family, name)()
    file = exported_repository / name / "1" / MODEL_FILE
    assert step.graph.SerializeToString() == file.read_bytes()


def test_models_appear_in_order_and_the_card_last(
    repository: Path, exported_pipeline: Read, frames: dict[str, np.ndarray]
) -> None:
    for model in repository.iterdir():
        shutil.rmtree(model / "1")
    pipeline = exported_pipeline("yolo")
    folders = install_pipeline(pipeline, repository, frames, ["x"], str)
    names = [folder.parent.name for folder in folders]
    computed = ["yolo_prepare", "yolo_targets", "yolo_decode", "yolo_merged"]
    assert names == [*computed, "yolo", "yolo_card"]
    appeared = [folder.stat().st_ctime_ns for folder in folders]
    assert appeared == sorted(appeared)
    assert appeared[-1] - appeared[0] < 1e9


def test_nothing_is_installed_when_the_chain_deviates(
    repository: Path, checkpoints: Path, exported_pipeline: Read, frames: dict[str, np.ndarray]
) -> None:
    before = listing(repository)
    pipeline = exported_pipeline("yolo")
    other, _ = load_network(checkpoints / "targets")
    for branch in other.model[-1].cv2:
        branch[-1].bias.data[0] += 3  # the left sides of all boxes move
    wrong = yolo_pipeline(
        "yolo", pipeline.class_names, pipeline.steps, pipeline.recipes, pipeline.scale, other
    )
    with pytest.raises(ParityError, match=r"rendered\.tif at score threshold 0\.5"):
        install_pipeline(wrong, repository, frames, ["x"], str)
    assert listing(repository) == before


def test_a_killed_export_leaves_the_old_version(
    repository: Path, checkpoints: Path, export_command: Callable[..., subprocess.Popen[str]]
) -> None:
    before = listing(repository)
    process = export_command(
        "yolo", "--targets", checkpoints / "targets", "--model-repository", repository
    )
    while process.poll() is None and not (repository / STAGING / "yolo_decode").exists():
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -9, errors
    assert (repository / STAGING / "yolo_targets" / MODEL_FILE).is_file()
    after = listing(repository)
    assert {name: after[name] for name in after if not name.startswith(STAGING)} == before
    with Staging(repository):  # neither the leftovers nor a lock stand in the way
        assert not list((repository / STAGING).iterdir())
    assert listing(repository) == before


def test_manifest_of_a_network(exported_repository: Path, checkpoints: Path) -> None:
    version = exported_repository / "yolo_targets" / "1"
    manifest = json.loads((version / MANIFEST_FILE).read_text())
    content = (version / MODEL_FILE).read_bytes()
    recipe = json.loads((checkpoints / "targets" / "recipe.json").read_text())
    assert manifest["model"] == "yolo_targets"
    assert manifest["sha256"] == {MODEL_FILE: hashlib.sha256(content).hexdigest()}
    assert manifest["recipe"] == recipe
    assert manifest["command"][:4] == ["python", "-m", "export", "yolo"]
    assert str(checkpoints / "targets") in manifest["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["exported"])
    assert set(manifest["parity"]) == {"1 tiles", "3 tiles"}
    for case in manifest["parity"].values():
        assert case.keys() == {"predictions", "prototypes"}
        assert all(0 <= deviation <= 1e-3 for deviation in case.values())


def test_manifest_of_a_pipeline(exported_repository: Path) -> None:
    version = exported_repository / "yolo_resnet" / "1"
    manifest = json.loads((version / MANIFEST_FILE).read_text())
    assert [figure["score_threshold"] for figure in manifest["parity"]] == [0.5, 0.25, 0.05, 0.5]
    frames = [figure["frame"] for figure in manifest["parity"]]
    assert frames == [*["rendered.tif"] * 3, "rendered.tif in tiles"]
    for figure in manifest["parity"]:
        assert figure["cells"] > 20
        assert figure["mask_iou"] > figure["least_mask_iou"] - 0.01 > 0.8
        assert figure["box_deviation"] <= 0.5
    card = json.loads((version / "card.json").read_text())
    assert card["class_names"] == ["spread", "round"]
    for name, facts in card["models"].items():
        content = (exported_repository / name / str(facts["version"]) / MODEL_FILE).read_bytes()
        assert facts["sha256"] == hashlib.sha256(content).hexdigest()
