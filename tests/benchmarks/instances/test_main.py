"""The study's table from a real server, random networks and rendered frames."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.harness.results import read_result
from benchmarks.instances.__main__ import main
from benchmarks.instances.result import NAMES, InstancesResult
from training.checkpoint import Recipe, save_checkpoint
from training.rendered import RenderSettings, render_dataset
from training.sam.network import ARCHITECTURE as SAM
from training.sam.network import build_sam
from training.sam.settings import TINY


def recipe(architecture, **settings):
    return Recipe(
        architecture=architecture,
        class_names=("cell",),
        settings=settings,
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
        versions={},
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    settings = RenderSettings(height=120, width=150, cells=5, mean_diameter=30)
    render_dataset(folder, frames=2, settings=settings, seed=1)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoints, exported_repository):
    """A folder with the checkpoints and the repository that all tests share, and another SAM."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("maskrcnn", "sam"):
        (folder / name).symlink_to(checkpoints / name)
    (folder / "model_repository").symlink_to(exported_repository)
    save_checkpoint(
        folder / "other", build_sam(TINY).state_dict(), recipe(SAM, size=TINY, epochs=1)
    )
    return folder


def arguments(data, run, out):
    return [
        *("--data", str(data), "--maskrcnn", str(run / "maskrcnn"), "--sam", str(run / "sam")),
        *("--model-repository", str(run / "model_repository")),
        *("--repeats", "1", "--timed-frames", "1", "--score-threshold", "0.9"),
        *("--json", str(out / "instances.json"), "--markdown", str(out / "instances.md")),
    ]


def test_the_page_has_all_figures(data, run, tmp_path):
    done = CliRunner().invoke(main, arguments(data, run, tmp_path))
    assert done.exit_code == 0, (done.output, done.exception)
    result = read_result(tmp_path / "instances.json", InstancesResult)
    for name in NAMES:
        quality, speed = result.pipelines[name], result.speed[name]
        assert quality.annotated == 5
        assert quality.found > 0
        assert 0 < quality.confidence < 1
        assert 0 <= quality.mean_average_precision <= quality.average_precision["0.50"] <= 1
        assert 0 <= quality.ap50 <= 1
        assert quality.recall * 5 == pytest.approx(quality.precision * quality.found)
        assert 0 <= quality.panoptic_quality <= quality.f1 <= 1
        assert min(speed.served, speed.in_process, speed.study) > 0
    found = [frame.found for frame in result.frames]
    assert all(frame["maskrcnn"] == frame["maskrcnn_sam"] for frame in found)
    assert result.box_prompts.cells == 10
    assert 0 < result.box_prompts.iou < 1
    page = (tmp_path / "instances.md").read_text()
    assert page.strip() in done.output


def test_other_weights_than_the_served_ones_are_refused(data, run, tmp_path):
    words = arguments(data, run, tmp_path)
    words[words.index("--sam") + 1] = str(run / "other")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "sam_encoder was exported from another checkpoint" in done.output
    assert not (tmp_path / "instances.json").exists()


def test_frames_without_a_cell_are_refused_before_the_server_starts(run, tmp_path):
    render_dataset(
        tmp_path / "empty",
        frames=1,
        settings=RenderSettings(height=64, width=64, cells=0),
        seed=0,
    )
    done = CliRunner().invoke(main, arguments(tmp_path / "empty", run, tmp_path))
    assert done.exit_code == 2
    assert "must hold an annotated cell" in done.output
