"""The study's table from a real server, real networks and rendered frames."""

from __future__ import annotations

import statistics

import pytest
from click.testing import CliRunner

from benchmarks.approaches.__main__ import PIPELINES, _cost_of_usual_cells, main
from benchmarks.approaches.result import ApproachesResult
from benchmarks.harness.results import read_result
from cytoserve.contract import SINGLE_GRAPH
from server.variants import DEFAULT
from training.rendered import RenderSettings, render_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    render_dataset(
        folder, frames=2, settings=RenderSettings(height=240, width=320, cells=6), seed=1
    )
    return folder


def arguments(data, checkpoints, exported_repository, server, out):
    return [
        *("--data", str(data), "--cells", str(checkpoints / "cells")),
        *(
            "--targets",
            str(checkpoints / "targets"),
            "--classifier",
            str(checkpoints / "classifier"),
        ),
        *("--model-repository", str(exported_repository), "--url", server.url, "--repeats", "1"),
        *("--json", str(out / "approaches.json"), "--markdown", str(out / "approaches.md")),
        *("--score-threshold", "0.97"),  # a random network's few best
    ]


def test_the_table_has_all_figures(data, checkpoints, exported_repository, server, tmp_path):
    words = arguments(data, checkpoints, exported_repository, server, tmp_path)
    done = CliRunner().invoke(main, [*words, "--variant", SINGLE_GRAPH])
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "approaches.json", ApproachesResult)
    assert set(result.approaches) == set(PIPELINES)
    assert list(result.served) == [DEFAULT, SINGLE_GRAPH]
    for name, figures in result.approaches.items():
        matched = figures.recall * result.cells_per_image
        assert figures.precision * figures.found_per_image == pytest.approx(matched)
        cells = (figures.found_per_image + result.cells_per_image) / 2
        assert figures.f1 == pytest.approx(matched / cells)
        assert 0 <= figures.panoptic_quality <= figures.f1 <= 1
        assert 0 <= figures.ap50 <= 1
        own = [{way: each[name] for way, each in f.seconds.items()} for f in result.frames]
        assert result.in_process[name] == statistics.median(f["in_process"] for f in own) > 0
        assert result.baseline[name] == statistics.median(f["baseline"] for f in own) > 0
        for variant, served in result.served.items():
            assert served.seconds[name] == statistics.median(f[variant] for f in own) > 0
            speedups = [frame["baseline"] / frame[variant] for frame in own]
            overheads = [frame[variant] / frame["in_process"] for frame in own]
            assert served.speedup[name] == statistics.median(speedups)
            assert served.overhead[name] == statistics.median(overheads)
        merged = result.served[SINGLE_GRAPH].seconds[name]
        assert f"| `{name}`, variant `{SINGLE_GRAPH}` | {merged:.3f} |" in done.output
        counts = [frame.found[name] for frame in result.frames]
        assert statistics.mean(counts) == figures.found_per_image
    assert result.cells_per_image == 6
    assert result.machine["cores"].isdecimal()
    table = (tmp_path / "approaches.md").read_text()
    assert table.strip() in done.output
    assert "| recall | precision | F1 | AP50 | PQ |" in table
    for printed in ("| 0.71 | 0.75 | 0.65 |", "| 0.70 | 0.56 | 0.2 |"):  # the study's
        assert printed in table


def test_cost_at_15_cells_is_read_from_the_line_through_the_frames():
    """Frames with 10, 20 and 40 cells, each of which adds 0.03 to the ratio."""
    found = [10, 20, 40]
    seconds = {"yolo": [2.0, 1.0, 4.0], "yolo_resnet": [2.8, 1.7, 9.2]}
    cost = _cost_of_usual_cells(seconds, found)
    assert cost.cells == 15
    assert cost.ratio == pytest.approx(1.1 + 15 * 0.03)
    assert cost.r_squared == pytest.approx(1)


def test_no_line_through_frames_of_equally_many_cells():
    assert _cost_of_usual_cells({"yolo": [1, 2], "yolo_resnet": [2, 3]}, [7, 7]) is None


def test_other_weights_than_the_served_ones_are_refused(
    data, checkpoints, exported_repository, server, tmp_path
):
    words = arguments(data, checkpoints, exported_repository, server, tmp_path)
    words[words.index("--targets") + 1] = str(checkpoints / "cells")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "yolo_targets was exported from another checkpoint" in done.output
    assert not (tmp_path / "approaches.json").exists()
