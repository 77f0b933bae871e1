"""Growth: lines through made-up points, and what the real server costs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.harness.load import Case
from benchmarks.harness.results import read_result
from benchmarks.harness.serving import paused_supervisor
from benchmarks.harness.timing import Slope
from benchmarks.scaling.__main__ import (
    grow_frames,
    main,
    memory_of_masks,
    slopes,
    smallest_first,
)
from benchmarks.scaling.result import (
    GrowthRow,
    LoadedRow,
    ScalingResult,
    scaling_page,
)


@pytest.mark.parametrize(
    ("xs", "ys", "slope", "intercept", "r_squared"),
    [
        pytest.param([0, 1, 2], [3, 5, 7], 2, 3, 1, id="a line"),
        pytest.param([0, 1], [4, 4], 0, 4, 1, id="flat"),
        pytest.param([0, 1, 2, 3], [0, 1, 0, 1], 0.2, 0.2, 0.2, id="scattered"),
    ],
)
def test_a_line(xs, ys, slope, intercept, r_squared):
    line = Slope.through(xs, ys)
    assert (line.slope, line.intercept, line.r_squared) == pytest.approx(
        (slope, intercept, r_squared)
    )
    assert line.points == len(xs)


def test_a_line_needs_two_places():
    with pytest.raises(ValueError, match="two places or more; given: \\[1, 1\\]"):
        Slope.through([1, 1], [2, 3])


def frame(
    pipeline: str, width: int, cells: int, ms: float, mb: float | None, found: int | None = None
) -> GrowthRow:
    return GrowthRow(
        pipeline=pipeline,
        width=width,
        height=1000,
        megapixels=width / 1000,
        cells=cells,
        found=cells if found is None else found,
        requests=1,
        p50_ms=ms,
        peak_mb=mb,
    )


FRAMES = [
    frame("yolo", 1000, 10, 13.0, 5.0),
    frame("yolo", 2000, 0, 14.0, None),
    frame("yolo", 2000, 10, 16.0, 7.0),
    frame("yolo", 2000, 100, 34.0, 8.0),
    frame("nuclei_unet", 1000, 10, 100.0, 50.0),
    frame("nuclei_unet", 2000, 10, 300.0, 90.0),
]


def test_slopes_hold_the_rest_fixed():
    loaded = [
        LoadedRow(pipelines=n, added="", start_s=2 + 3 * n, memory_mb=100 * n) for n in (1, 2)
    ]
    found = {(row.pipeline, row.unit): row.slope for row in slopes(FRAMES, loaded)}
    assert found == pytest.approx(
        {
            ("yolo", "ms per megapixel"): 3,  # at 10 cells
            ("yolo", "MB per megapixel"): 2,
            ("yolo", "ms per cell"): 0.2,  # at 2000 x 1000
            ("yolo", "MB per cell"): 1 / 90,
            ("nuclei_unet", "ms per megapixel"): 200,
            ("nuclei_unet", "MB per megapixel"): 40,
            ("all", "s per pipeline"): 3,
            ("all", "MB per pipeline"): 100,
        }
    )


def test_memory_is_compared_with_a_mask_a_cell():
    missed = frame("yolo", 2000, 500, 50.0, 9.0, found=120)
    [row] = memory_of_masks([*FRAMES, missed])  # semantic pipelines have no cells
    assert (row.cells, row.masks_mb, row.share) == (100, 200, 8 / 200)


def test_frames_grow():
    large, wide = (200, 200), (300, 150)
    cases = [Case(*wide, 15), Case(100, 100, 15), *(Case(*large, n) for n in (500, 15, 0))]
    assert smallest_first(cases) == [
        Case(100, 100, 15),
        Case(*large, 0),
        Case(*large, 15),
        Case(*large, 500),
        Case(*wide, 15),
    ]


@pytest.mark.slow
def test_frames_of_the_real_server(server):
    cases = [Case(160, 120, 2), Case(256, 192, 0), Case(256, 192, 2)]
    with paused_supervisor(server):
        rows = grow_frames(server, "yolo", cases, seconds=0, fewest=2)
    assert [row.requests for row in rows] == [2, 2, 2]
    assert [row.peak_mb is None for row in rows] == [False, True, False]
    assert min(row.p50_ms for row in rows) > 0


@pytest.mark.slow
def test_the_command(exported_repository, tmp_path):
    file, page = tmp_path / "scaling.json", tmp_path / "scaling.md"
    options = ["--pipeline", "nuclei_unet", "--size", "128x128", "--size", "256x256"]
    few = ["--cells", "1", "--seconds", "0"]
    paths = ["--model-repository", exported_repository, "--json", file, "--markdown", page]
    done = CliRunner().invoke(main, [*options, *few, *map(str, paths)])
    assert done.exit_code == 0, done.output
    result = read_result(file, ScalingResult)
    assert [row.megapixels for row in result.frames] == [128**2 / 1e6, 256**2 / 1e6]
    assert {row.unit for row in result.slopes} == {"ms per megapixel", "MB per megapixel"}
    [loaded] = result.loaded
    assert loaded.start_s > 0
    assert loaded.memory_mb > 50
    assert page.read_text() == scaling_page(result)


def test_bad_input_is_told(source_repository, tmp_path):
    paths = ["--model-repository", source_repository, "--json", tmp_path / "scaling.json"]
    done = CliRunner().invoke(main, list(map(str, paths)))
    assert done.exit_code == 1
    assert "must be exported" in done.output
