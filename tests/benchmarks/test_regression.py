"""The regression check: on real pipelines it passes, and each of its bounds can be broken."""

from __future__ import annotations

import math

import click
import pytest
from click.testing import CliRunner

from benchmarks.harness.bounds import Bound, judge, verdicts_table
from benchmarks.harness.results import read_result
from benchmarks.regression.__main__ import main, refuse_broken_bounds
from benchmarks.regression.result import (
    BOUNDS,
    Check,
    Load,
    RegressionResult,
    regression_page,
)

MACHINE = {"processor": "made up"}
GOOD = (
    {"check": "overhead", "of": "yolo", "ratio": 1.1},
    {"check": "overhead", "of": "nuclei_unet", "ratio": 1.4},
    {"check": "speedup", "of": "yolo_resnet", "ratio": 3.0},
    {"check": "batch", "of": "yolo_targets", "ratio": 2.5},
    {"check": "growth", "of": "yolo_resnet", "ratio": 0.9},
    {"check": "memory", "of": "yolo_resnet", "ratio": 0.01},
)


def result(*rows):
    checks = tuple(Check(**row) for row in rows)
    return RegressionResult(
        benchmark="regression", command="", machine=MACHINE, checks=checks, load=Load()
    )


def test_the_real_pipelines_keep_all_bounds(exported_repository, tmp_path):
    pipelines = ("yolo", "yolo_resnet", "glioma_unet")
    done = CliRunner().invoke(
        main,
        [
            *("--model-repository", str(exported_repository), "--repeats", "2"),
            *(word for name in pipelines for word in ("--pipeline", name)),
            # Between 20 cells and 100 the larger batch of crops would weigh as much as the cells.
            *("--few", "100", "--many", "400", "--requests", "4"),
            *("--json", str(tmp_path / "regression.json")),
        ],
    )
    assert done.exit_code == 0, done.output
    found = read_result(tmp_path / "regression.json", RegressionResult)
    assert {of for of, _ in found.of("overhead")} == set(pipelines)
    assert {row.check for row in found.checks} == {bound.name for bound in BOUNDS}
    assert all(verdict.reached for verdict in judge(BOUNDS, found))
    assert regression_page(found) in done.output


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param(
            {"check": "overhead", "of": "maskrcnn", "ratio": 3.2},
            "overhead of maskrcnn: 3.20, not <= 3",
            id="the server costs more than the graphs",
        ),
        pytest.param(
            {"check": "speedup", "of": "yolo_resnet", "ratio": 0.8},
            "speedup of yolo_resnet: 0.800, not > 1",
            id="PyTorch is faster, cell by cell",
        ),
        pytest.param(
            {"check": "batch", "of": "yolo_targets", "ratio": 1.0},
            "batch of yolo_targets: 1.00, not > 1",
            id="frames run one by one",
        ),
        pytest.param(
            {"check": "growth", "of": "yolo_resnet", "ratio": 20.0},
            "growth of yolo_resnet: 20.0, not <= 2",
            id="time grows with the square of the cells",
        ),
        pytest.param(
            {"check": "memory", "of": "yolo_resnet", "ratio": 1.02},
            "memory of yolo_resnet: 1.02, not <= 0.1",
            id="a mask per cell as large as the frame",
        ),
        pytest.param(
            {"check": "overhead", "of": "yolo", "ratio": math.nan},
            "overhead of yolo: nan, not <= 3",
            id="no number at all",
        ),
    ],
)
def test_a_broken_bound_ends_the_check(row, said):
    refuse_broken_bounds(result(*GOOD))
    with pytest.raises(click.ClickException, match=r"Bounds are broken\.") as error:
        refuse_broken_bounds(result(*GOOD, row))
    assert error.value.message.splitlines()[1:] == [said]
    assert "| **not reached** |" in regression_page(result(*GOOD, row))


@pytest.mark.parametrize(
    ("sign", "limit", "figures", "expected"),
    [
        pytest.param("<=", 1.1, {"a": 1.05, "b": 1.2}, (1.2, "b", False), id="the worst counts"),
        pytest.param("<=", 1.1, {"a": 1.1}, (1.1, "a", True), id="at most"),
        pytest.param(">=", 1.1, {"a": 1.1}, (1.1, "a", True), id="at least"),
        pytest.param(">", 1.1, {"a": 1.1}, (1.1, "a", False), id="more than"),
        pytest.param(">=", 1, {"a": 2, "b": 0.5}, (0.5, "b", False), id="the smallest counts"),
        pytest.param("<=", 1, {"": 0.5}, (0.5, "", True), id="one figure"),
        pytest.param("<=", 1, {"a": None, "b": 0.5}, (0.5, "b", True), id="not measured in a row"),
        pytest.param("<=", 1, {}, (None, "", None), id="no row"),
    ],
)
def test_bounds_are_judged_by_their_worst_row(sign, limit, figures, expected):
    bound = Bound("a bound", "a / b", sign, limit, lambda _: figures.items())
    verdict = bound.judge(result())
    assert (verdict.measured, verdict.of, verdict.reached) == expected
    assert verdict.word in verdicts_table([verdict])


def test_a_result_that_is_missing_is_not_judged():
    assert {verdict.reached for verdict in judge(BOUNDS, None)} == {None}
    refuse_broken_bounds(result())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--few", "10", "--many", "10"], "--many is more than --few", id="no growth"),
        pytest.param(["--pipeline", "maskrcnn"], "must be exported", id="nothing to serve"),
    ],
)
def test_bad_wishes_are_refused(words, said, source_repository, tmp_path):
    done = CliRunner().invoke(
        main,
        [*("--model-repository", str(source_repository), "--json", str(tmp_path / "x")), *words],
    )
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output
