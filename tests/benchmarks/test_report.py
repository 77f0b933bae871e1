"""The report, from the committed results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from benchmarks.bounds import TARGETS
from benchmarks.report.__main__ import RESULTS, main, read_results
from benchmarks.report.drawing import Axis, Limit, bars, lines, stacked_bars
from benchmarks.report.sections import ENTRIES

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / RESULTS

WITHOUT_FIGURE = {"Empty frames, foreground"}
"""Bounds that the committed results cannot judge: the demo's server has no U-Net."""


def write_report(results, out):
    done = CliRunner().invoke(
        main,
        [
            *("--results", str(results)),
            *("--html", str(out / "report.html"), "--markdown", str(out / "report.md")),
        ],
    )
    assert done.exit_code == 0, done.output
    return (out / "report.html").read_text(), (out / "report.md").read_text()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_report(COMMITTED, out)
    return out


def test_the_page_stands_alone(report):
    html = (report / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert all(source.startswith(("data:", "#", "https://")) for source in sources)
    fetched = re.findall(r'src="([^"]+)"', html)
    assert fetched
    assert all(source.startswith("data:image/svg+xml;base64,") for source in fetched)
    assert "@import" not in html
    assert "<script" not in html


def test_both_pages_show_every_result(report):
    html, markdown = ((report / f"report.{kind}").read_text() for kind in ("html", "md"))
    results = read_results(COMMITTED)
    for shown in ENTRIES:
        assert f"<h2>{shown.title}</h2>" in html
        assert f"\n## {shown.title}\n" in markdown
        if shown.name in results:
            machine = shown.table(results[shown.name]).strip().splitlines()[-1]
            assert machine in markdown
        else:
            assert shown.command in markdown
    for bound in TARGETS:
        assert f"| {bound.name} | {bound.ratio} | {bound.limit_text} |" in markdown


def test_every_bound_is_about_a_result_that_is_shown_and_finds_its_figure():
    results = read_results(COMMITTED)
    for bound in TARGETS:
        assert bound.where.result in {shown.name for shown in ENTRIES}
        if bound.where.result in results and bound.name not in WITHOUT_FIGURE:
            assert bound.judge(results).measured is not None, bound


def test_nothing_measured_yet_is_no_error(tmp_path):
    html, markdown = write_report(tmp_path, tmp_path)
    for shown in ENTRIES:
        assert f"Not measured yet. This makes it: `{shown.command}`." in markdown
    assert html.count("<td>not measured</td>") == len(TARGETS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("{", "bccd.json is not a benchmark's result", id="cut off"),
        pytest.param("[]", "bccd.json is not a benchmark's result", id="no object"),
        pytest.param(
            "{}",
            "bccd.json was written by another version, KeyError: 'approaches'",
            id="of another version",
        ),
    ],
)
def test_a_bad_result_is_named(content, said, tmp_path):
    (tmp_path / "bccd.json").write_text(content)
    done = CliRunner().invoke(
        main, ["--results", str(tmp_path), "--html", str(tmp_path / "report.html")]
    )
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "plot",
    [
        pytest.param(
            bars("Bars", Axis("ratio"), {"one": 1.25, "other": 2}, Limit(1.1, "bound")), id="bars"
        ),
        pytest.param(
            stacked_bars("Parts", Axis("share, %"), {"one": {"a": 1, "b": 3}, "other": {}}, "ms"),
            id="stacked bars, one empty",
        ),
        pytest.param(
            lines("Lines", Axis("cells", log=True), Axis("s"), {"one": [(0, 1), (10, 2)]}),
            id="lines, a zero on a logarithmic axis",
        ),
        pytest.param(lines("None", Axis("x"), Axis("y"), {}), id="no line at all"),
    ],
)
def test_a_plot_is_a_picture(plot):
    picture = ElementTree.fromstring(plot.svg)
    assert picture.tag.endswith("svg")
    assert sum(1 for _ in picture.iter()) > 20


def test_a_plot_is_the_same_file_again():
    first, again = (lines("L", Axis("x"), Axis("y"), {"one": [(1, 1)]}) for _ in range(2))
    assert first.svg == again.svg


def test_the_report_imports_no_torch():
    """It formats results, and should answer in a second."""
    script = (
        "import sys, benchmarks.report.__main__; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
    )
    assert not {"torch", "ultralytics", "lightning"} & set(done.stdout.split())
