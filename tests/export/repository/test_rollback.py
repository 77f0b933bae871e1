"""An export can be taken back: the version that was served before is the newest again."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from cytoserve.contract import PIPELINES
from cytoserve.model_config import CARD_FILE, versions
from export.__main__ import main
from export.repository.configs import make_repository
from export.repository.install import MODEL_FILE, STAGING, Staging
from export.repository.rollback import RollbackError, roll_back


def graph(value: float) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    constant = helper.make_tensor("y", TensorProto.FLOAT, [], [value])
    node = helper.make_node("Constant", [], ["y"], value=constant)
    return helper.make_model(helper.make_graph([node], "g", [], [output]))


def export(repository: Path, pipeline: str, **values: float) -> None:
    """Install a version of a pipeline whose steps hold a value, 0 for those that are not named."""
    with Staging(repository) as staging:
        steps = [
            staging.add_graph(step, graph(values.get(step, 0)), {})
            for step in PIPELINES[pipeline].steps
        ]
        models = {
            step.name: {"version": int(staging.target(step).name), "sha256": step.sha256}
            for step in steps
        }
        ensemble = staging.add_ensemble(pipeline, {"models": models}, {})
        total = sum(model["version"] for model in models.values()) + sum(values.values())
        card = staging.add_graph(PIPELINES[pipeline].card, graph(total), {})
        staging.install([*steps, ensemble, card])


def state(repository: Path) -> dict[str, list[int]]:
    return {folder.name: versions(folder) for folder in repository.iterdir() if versions(folder)}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with one version of `yolo` and of `yolo_resnet`."""
    folder = tmp_path / "repository"
    make_repository(folder)
    export(folder, "yolo")
    export(folder, "yolo_resnet")
    return folder


def test_the_former_version_is_the_newest_again(repository):
    before = state(repository)
    export(repository, "yolo", yolo_targets=5)
    assert state(repository)["yolo_targets"] == state(repository)["yolo"] == [1, 2]
    removed = roll_back(repository, ["yolo"])
    assert state(repository) == before
    assert {folder.parent.name for folder in removed} == {"yolo_targets", "yolo", "yolo_card"}
    assert not (repository / STAGING).exists()


def test_an_export_after_it_is_a_new_version(repository):
    export(repository, "yolo", yolo_targets=5)
    roll_back(repository, ["yolo"])
    export(repository, "yolo", yolo_targets=7)
    assert state(repository)["yolo"] == [1, 2]
    expected = graph(7).SerializeToString()
    assert (repository / "yolo_targets" / "2" / MODEL_FILE).read_bytes() == expected


def test_a_shared_step_goes_back_in_both_pipelines_or_in_none(repository):
    before = state(repository)
    export(repository, "yolo", yolo_decode=3)
    export(repository, "yolo_resnet", yolo_decode=3)
    after = state(repository)
    with pytest.raises(RollbackError, match=r"shares yolo_decode with yolo_resnet.*yolo yolo_res"):
        roll_back(repository, ["yolo"])
    assert state(repository) == after
    roll_back(repository, ["yolo", "yolo_resnet"])
    assert state(repository) == before


def test_a_pipeline_with_one_version_stays(repository):
    before = state(repository)
    with pytest.raises(RollbackError, match=r"yolo needs two versions .* holds: 1\. Export"):
        roll_back(repository, ["yolo"])
    with pytest.raises(RollbackError, match="holds: none"):
        roll_back(repository, ["maskrcnn"])
    assert state(repository) == before


def test_a_former_version_whose_models_are_gone_is_refused(repository):
    export(repository, "yolo", yolo_targets=5)
    for value in (1, 2):  # another pipeline's exports push the shared step's first version out
        export(repository, "yolo_resnet", yolo_decode=value)
    before = state(repository)
    with pytest.raises(RollbackError, match="former version needs yolo_decode/1, which is gone"):
        roll_back(repository, ["yolo"])
    assert state(repository) == before


def test_the_command_tells_what_it_removed(repository):
    export(repository, "yolo", yolo_targets=5)
    command = ["rollback", "yolo", "--model-repository", str(repository)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert f"removed {repository / 'yolo_targets' / '2'}" in done.output.splitlines()
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "python -m export yolo" in again.output
    assert json.loads((repository / "yolo" / "1" / CARD_FILE).read_text())["models"]
