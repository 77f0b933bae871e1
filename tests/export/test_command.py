"""`python -m export`: what a user can get wrong ends in one line and an exit code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import check_output

import onnx
import pytest
from click.testing import CliRunner, Result

from export.__main__ import main
from export.lint import lint_repository
from export.parity import steps as parity_steps
from export.repository.configs import make_repository
from export.repository.install import STAGING, Staging
from export.repository.pipelines import ExportedPipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path: Path, source_repository: Path) -> Path:
    """A copy of the repository of the source tree: nothing is exported."""
    return Path(shutil.copytree(source_repository, tmp_path / "model_repository"))


@pytest.fixture
def copied(tmp_path: Path, checkpoints: Path) -> Callable[[str], Path]:
    """Copies a checkpoint, to be damaged."""
    return lambda name: Path(shutil.copytree(checkpoints / name, tmp_path / name))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("Error: "), lines
    assert (
        len([line for line in lines if not line.startswith(("exporting", "comparing", "joining"))])
        == 1
    )
    assert all(part in lines[-1] for part in parts), lines[-1]


def test_checkpoint_of_another_architecture(repository: Path, checkpoints: Path) -> None:
    result = run("yolo", "--targets", checkpoints / "classifier", "--model-repository", repository)
    assert_refused(result, str(checkpoints / "classifier"), "resnet50", "yolo11n-seg is needed")


def test_a_new_folder_becomes_a_model_repository(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    make_repository(folder)
    tracked = {path.relative_to(ROOT / "model_repository") for path in tracked_files()}
    made = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert made == {path for path in tracked if path.suffix in (".pbtxt", ".py")}
    assert lint_repository(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_a_refused_export_makes_no_repository(tmp_path: Path, checkpoints: Path) -> None:
    wrong = checkpoints / "classifier"
    result = run("yolo", "--targets", wrong, "--model-repository", tmp_path / "mine")
    assert result.exit_code == 1
    assert not (tmp_path / "mine").exists()


def test_a_wrong_folder_does_not_get_a_repository_by_itself(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("yolo", "--targets", checkpoints / "targets")
    assert result.exit_code == 2
    assert "there is no model_repository here" in result.stderr
    assert not any(tmp_path.iterdir())


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "model_repository"]
    return [ROOT / line for line in check_output(command, cwd=ROOT, text=True).splitlines()]


def test_a_folder_of_other_files_does_not_become_one(tmp_path: Path, checkpoints: Path) -> None:
    (tmp_path / "thesis.tex").write_text("of somebody else")
    targets = checkpoints / "targets"
    result = run("yolo", "--targets", targets, "--model-repository", tmp_path)
    assert result.exit_code == 2
    assert "holds other files and no config.pbtxt" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_classifier_of_another_architecture(repository: Path, checkpoints: Path) -> None:
    cells = checkpoints / "cells"
    result = run(
        "yolo_resnet", "--cells", cells, "--classifier", cells, "--model-repository", repository
    )
    assert_refused(result, str(cells), "resnet50 is needed")


def test_damaged_weights(repository: Path, copied: Callable[[str], Path]) -> None:
    weights = copied("targets") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = run("yolo", "--targets", weights.parent, "--model-repository", repository)
    assert_refused(result, str(weights), "is damaged")


def test_damaged_recipe(repository: Path, copied: Callable[[str], Path]) -> None:
    recipe = copied("targets") / "recipe.json"
    recipe.write_text(recipe.read_text()[:50])
    result = run("yolo", "--targets", recipe.parent, "--model-repository", repository)
    assert_refused(result, str(recipe), "is damaged")


def test_weights_that_do_not_fit(repository: Path, copied: Callable[[str], Path]) -> None:
    recipe = copied("targets") / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"spread",', ""))
    result = run("yolo", "--targets", recipe.parent, "--model-repository", repository)
    assert_refused(result, str(recipe.parent), "does not fit the network")
    assert len(result.stderr) < 1000


def test_unfinished_checkpoint(repository: Path, copied: Callable[[str], Path]) -> None:
    checkpoint = copied("targets")
    (checkpoint / "recipe.json").unlink()
    result = run("yolo", "--targets", checkpoint, "--model-repository", repository)
    assert_refused(result, str(checkpoint), "recipe.json is absent", "python -m training")


def test_several_classes_as_cells(repository: Path, checkpoints: Path) -> None:
    result = run(
        "yolo_resnet",
        *("--cells", checkpoints / "targets", "--classifier", checkpoints / "classifier"),
        *("--model-repository", repository),
    )
    assert_refused(result, str(checkpoints / "targets"), "has 2 classes", "one-class network")


def test_frames_without_an_image(repository: Path, checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    result = run(
        "yolo",
        *("--targets", checkpoints / "targets", "--model-repository", repository),
        *("--frames", tmp_path / "frames"),
    )
    assert result.exit_code == 2
    assert "no image with a suffix" in result.stderr


def test_a_wrong_graph_installs_nothing(
    monkeypatch: pytest.MonkeyPatch, repository: Path, checkpoints: Path
) -> None:
    trace = parity_steps.trace_graph

    def sabotaged(*arguments: object) -> onnx.ModelProto:
        graph = trace(*arguments)
        for node in graph.graph.node:
            if node.op_type == "Floor":
                node.op_type = "Ceil"
        return graph

    monkeypatch.setattr(parity_steps, "trace_graph", sabotaged)
    result = run("yolo", "--targets", checkpoints / "targets", "--model-repository", repository)
    assert_refused(result, "yolo_prepare, case ", "ONNX Runtime deviates from torch")
    assert not [p for p in repository.rglob("*") if p.name == "model.onnx" or p.name == STAGING]


@pytest.fixture
def ready(
    monkeypatch: pytest.MonkeyPatch, exported_pipeline: Callable[[str], ExportedPipeline]
) -> None:
    """The steps of `yolo` are taken from an export that was made before."""
    pipeline = exported_pipeline("yolo")
    monkeypatch.setattr("export.yolo.steps.export_yolo", lambda *_: pipeline)


@pytest.mark.usefixtures("ready")
def test_full_disk(
    monkeypatch: pytest.MonkeyPatch, repository: Path, checkpoints: Path, tmp_path: Path
) -> None:
    def save(graph: onnx.ModelProto, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(onnx, "save", save)
    before = sorted(repository.rglob("*"))
    result = run("yolo", "--targets", checkpoints / "targets", "--model-repository", repository)
    assert_refused(result, "No space left on device", "model.onnx")
    assert sorted(repository.rglob("*")) == before


@pytest.mark.usefixtures("ready")
def test_two_exports_at_once(repository: Path, checkpoints: Path) -> None:
    with Staging(repository):
        result = run("yolo", "--targets", checkpoints / "targets", "--model-repository", repository)
        assert_refused(result, "another export is writing", str(repository), "wait")
        assert (repository / STAGING).is_dir()


@pytest.mark.usefixtures("ready")
def test_missing_config(repository: Path, checkpoints: Path, tmp_path: Path) -> None:
    (repository / "yolo" / "config.pbtxt").unlink()
    result = run("yolo", "--targets", checkpoints / "targets", "--model-repository", repository)
    assert_refused(result, "yolo/config.pbtxt is absent", "python -m export configs")
