"""The report, from the committed results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.report import ENTRIES, RESULTS, main, read_results

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / RESULTS
TARGETS = [(entry, bound) for entry in ENTRIES for bound in entry.bounds]

WITHOUT_FIGURE = {"Empty frames, foreground"}
"""Bounds that the committed results cannot judge: the demo's server has no U-Net."""


def write_report(results, out):
    page = out / "report.md"
    done = CliRunner().invoke(main, ["--results", str(results), "--markdown", str(page)])
    assert done.exit_code == 0, done.output
    return page.read_text()


def test_the_page_shows_every_result(tmp_path):
    page = write_report(COMMITTED, tmp_path)
    results = read_results(COMMITTED)
    for shown in ENTRIES:
        assert f"\n## {shown.title}\n" in page
        if shown.name in results:
            machine = shown.page(results[shown.name]).strip().splitlines()[-1]
            assert machine in page
        else:
            assert shown.command in page
    for _, bound in TARGETS:
        assert f"| {bound.name} | {bound.ratio} | {bound.limit_text} |" in page


@pytest.mark.parametrize(("entry", "bound"), TARGETS, ids=[bound.name for _, bound in TARGETS])
def test_every_bound_finds_its_figure(entry, bound):
    results = read_results(COMMITTED)
    if entry.name in results and bound.name not in WITHOUT_FIGURE:
        assert bound.judge(results[entry.name]).measured is not None


def test_nothing_measured_yet_is_no_error(tmp_path):
    page = write_report(tmp_path, tmp_path)
    for shown in ENTRIES:
        assert f"Not measured yet. This makes it: `{shown.command}`." in page
    assert page.count("| not measured |") == len(TARGETS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("{", "bccd.json is no result of this version", id="cut off"),
        pytest.param("[]", "bccd.json is no result of this version", id="no object"),
        pytest.param("{}", "approaches\n  Field required", id="of another version"),
    ],
)
def test_a_bad_result_is_named(content, said, tmp_path):
    (tmp_path / "bccd.json").write_text(content)
    page = tmp_path / "report.md"
    done = CliRunner().invoke(main, ["--results", str(tmp_path), "--markdown", str(page)])
    assert done.exit_code == 1
    assert said in done.output
    assert "Make it again with: python -m benchmarks.bccd" in done.output
    assert not page.exists()


def test_the_report_imports_no_torch():
    """It formats results, and should answer in a second."""
    script = "import sys, benchmarks.report; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
    )
    assert not {"torch", "ultralytics", "lightning"} & set(done.stdout.split())
