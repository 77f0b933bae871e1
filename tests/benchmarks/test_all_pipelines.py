"""Every pipeline, trained in brief and exported, in one repository."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks import all_pipelines
from cytoserve.contract import PIPELINES
from export.lint import lint_repository
from export.parity.chain import newest_graph
from export.parity.frames import parity_frames
from training.checkpoint import load_checkpoint, save_checkpoint
from training.yolo.settings import ARCHITECTURE


@pytest.fixture
def cells(tmp_path, checkpoints, make_random_yolo):
    """A YOLO that fits the frames that its export is proven on: on others rounding decides which
    cells random weights find."""
    _, recipe = load_checkpoint(checkpoints / "cells", ARCHITECTURE)
    network = make_random_yolo(1, list(parity_frames(None, recipe).values()))
    save_checkpoint(tmp_path / "cells", network.state_dict(), recipe)
    return tmp_path / "cells"


@pytest.mark.slow
def test_the_repository_holds_what_could_be_trained_and_is_sound(
    monkeypatch, tmp_path, cells, checkpoints
):
    monkeypatch.setattr(all_pipelines, "FRAMES", 6)
    monkeypatch.setattr(all_pipelines, "EPOCHS", dict.fromkeys(all_pipelines.EPOCHS, 1))
    words = ["--cells", cells, "--classifier", checkpoints / "classifier"]
    done = CliRunner().invoke(
        all_pipelines.main, [*map(str, words), "--out", str(tmp_path / "all")]
    )
    assert done.exit_code == 0, done.output
    repository = tmp_path / "all" / "model_repository"
    assert str(repository) in done.output
    exported = {
        name for name, pipeline in PIPELINES.items() if newest_graph(repository / pipeline.card)
    }
    assert exported == {
        "yolo",
        "yolo_resnet",
        "maskrcnn",
        "maskrcnn_sam",
        "sam_prompt",
        "glioma_unet",
    }
    assert not lint_repository(repository)


def test_a_missing_network_is_named_before_anything_is_trained(tmp_path):
    done = CliRunner().invoke(
        all_pipelines.main, ["--cells", str(tmp_path / "none"), "--out", str(tmp_path / "all")]
    )
    assert done.exit_code == 2
    assert "--cells" in done.output
    assert not (tmp_path / "all").exists()
