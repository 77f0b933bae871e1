"""Which pipelines count as exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from server.errors import RepositoryError
from server.repository import survey


def nothing(repository: Path) -> None:
    """Leave the repository whole."""


def remove(*paths: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        for path in paths:
            target = repository / path
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def rename_model(repository: Path) -> None:
    cells = repository / "yolo_cells"
    (cells / "1/model.onnx").rename(cells / "1/net.onnx")
    with (cells / "config.pbtxt").open("a") as config:
        config.write('default_model_filename: "net.onnx"\n')


def newer_version(repository: Path) -> None:
    (repository / "yolo_cells/1").rename(repository / "yolo_cells/2")


def unfinished_version(repository: Path) -> None:
    (repository / "yolo_cells/1").rename(repository / "yolo_cells/.staging")


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        pytest.param(nothing, (), id="whole"),
        pytest.param(newer_version, (), id="another version"),
        pytest.param(rename_model, (), id="another file name"),
        pytest.param(remove("yolo/config.pbtxt"), ("yolo/config.pbtxt",), id="no ensemble"),
        pytest.param(remove("yolo/1"), ("yolo/<version>/",), id="ensemble without version"),
        pytest.param(remove("yolo_cells"), ("yolo_cells/config.pbtxt",), id="no step"),
        pytest.param(
            remove("yolo_cells/1/model.onnx", "yolo_wait/1/model.py"),
            ("yolo_wait/<version>/model.py", "yolo_cells/<version>/model.onnx"),
            id="no files",
        ),
        pytest.param(
            unfinished_version, ("yolo_cells/<version>/model.onnx",), id="unfinished version"
        ),
        pytest.param(
            remove("yolo_card/1/model.onnx"), ("yolo_card/<version>/model.onnx",), id="no card"
        ),
    ],
)
def test_missing(
    own_repository: Path, change: Callable[[Path], None], missing: tuple[str, ...]
) -> None:
    change(own_repository)
    [export] = survey(own_repository, ["yolo"])
    assert export.missing == missing


def test_another_pipeline_is_untouched_by_what_one_lacks(own_repository: Path) -> None:
    exports = {export.pipeline.name: export for export in survey(own_repository)}
    assert exports["yolo"].missing == ()
    assert exports["yolo_resnet"].missing
    assert exports["yolo_resnet"].command == "python -m export yolo_resnet"


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not a folder"):
        survey(tmp_path / "none")
