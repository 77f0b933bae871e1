"""The report, from the committed results: read as text, and opened in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.bounds import TARGETS
from benchmarks.report.__main__ import RESULTS, main, read_results
from benchmarks.report.drawing import Axis, Limit, bars, lines, stacked_bars
from benchmarks.report.sections import ENTRIES

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / RESULTS
WIDTHS = (1200, 400)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

HEIGHT = 16000
"""Of the browser's window, in CSS pixels: the whole report is seen."""

# A window is 500 px wide at least, a frame in it as narrow as a phone.
FRAME = """<!doctype html>
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<body style="margin: 0">
<iframe src="measured.html" style="width: {width}px; height: {height}px; border: 0"></iframe>
"""

# Runs in the report, and leaves in the page around it what is known of the laid-out report.
MEASURE = """<script>
addEventListener("load", () => {
  parent.document.documentElement.dataset.measured = JSON.stringify({
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    sections: [...document.querySelectorAll("main > section")].map((section) => section.id),
    plots: [...document.querySelectorAll("figure svg")].map((svg) => {
      const {x, y, width, height} = svg.getBoundingClientRect();
      return [x, y, width, height];
    }),
  });
});
</script>"""


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


class Page(HTMLParser):
    """Ids, links and whatever a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        elif not (values.get("href") or "#").startswith(("#", "data:")):
            self.fetched.append(values["href"])
        self.fetched += [values[name] for name in ("src", "srcset", "data") if name in values]


def test_the_page_stands_alone(report):
    html = (report / "report.html").read_text()
    page = Page(html)
    assert page.fetched == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_both_pages_show_every_result(report):
    html, markdown = ((report / f"report.{kind}").read_text() for kind in ("html", "md"))
    results = read_results(COMMITTED)
    for shown in ENTRIES:
        assert f'<section id="{shown.name}"' in html
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
        if bound.where.result in results:
            assert bound.judge(results).measured is not None, bound


def test_nothing_measured_yet_is_no_error(tmp_path):
    html, markdown = write_report(tmp_path, tmp_path)
    for shown in ENTRIES:
        assert f"Not measured yet. This makes it: `{shown.command}`." in markdown
    assert html.count("not measured</span>") == len(TARGETS)


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
    ("plot", "texts"),
    [
        pytest.param(
            bars("Bars", Axis("ratio"), {"one": 1.25, "other": 2}, Limit(1.1, "bound")),
            ("one", "other", "1.25", "2.00", "ratio", "bound"),
            id="bars",
        ),
        pytest.param(
            stacked_bars("Parts", Axis("share, %"), {"one": {"a": 1, "b": 3}, "other": {}}, "ms"),
            ("a", "b", "one", "4.00 ms", "0.00 ms"),
            id="stacked bars, one empty",
        ),
        pytest.param(
            lines("Lines", Axis("cells", log=True), Axis("s"), {"one": [(0, 1), (10, 2)]}),
            ("one", "cells", "10"),
            id="lines, a zero on a logarithmic axis",
        ),
        pytest.param(lines("None", Axis("x"), Axis("y"), {}), ("x", "y"), id="no line at all"),
    ],
)
def test_a_plot_keeps_its_text_and_takes_the_pages_colours(plot, texts):
    written = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)
    assert set(texts) <= set(written)
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", plot.svg)) <= {
        "none",
        *(f"var(--{name})" for name in re.findall(r"var\(--([\w-]+)\)", plot.svg)),
    }
    assert 'role="img"' in plot.svg


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: apt install chromium")
    return program


@pytest.fixture(scope="module")
def site(report):
    """URL of the report, with `MEASURE` in it, and the paths that were asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    text = (report / "report.html").read_text()
    (report / "measured.html").write_text(text.replace("</body>", f"{MEASURE}</body>"))
    for width in WIDTHS:
        (report / f"{width}.html").write_text(FRAME.format(width=width, height=HEIGHT))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=report)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(browser, site, width, dark, tmp_path):
    url, asked = site
    asked.clear()
    page, picture = open_page(browser, f"{url}/{width}.html", dark, tmp_path)
    assert asked == [f"/{width}.html", "/measured.html"]  # and no icon, script or style
    assert page["fetched"] == []  # of any host, in vain or not
    assert page["width"] == page["scrollWidth"] == width
    assert page["sections"] == ["bounds", *(shown.name for shown in ENTRIES), "machines"]

    picture = picture[:, :width]
    corner = picture[2, 2].astype(int)
    assert (corner.sum() < 3 * 128) == dark
    different = np.abs(picture.astype(int) - corner).sum(axis=2) > 60
    assert 0.005 < different.mean() < 0.5  # something, and not only something

    assert page["plots"]
    for left, top, across, down in page["plots"]:
        assert 0 <= left < left + across <= width
        assert across > 0.75 * min(width, 400)
        plot = picture[round(top) : round(top + down), round(left) : round(left + across)]
        colourful = np.ptp(plot.astype(int), axis=2) > 60
        assert colourful.sum() > 100  # a line or a bar; text and grid are grey


def open_page(browser, url, dark, folder):
    """Load ``url``; return what `MEASURE` says and the picture, BGR ``[H, W, 3]``."""
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *(
                "--hide-scrollbars",
                f"--user-data-dir={folder / 'profile'}",
                "--enable-logging=stderr",
            ),
            # 0 is dark, 1 light; no other host than the test's can be reached.
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(
                f"--window-size={max(WIDTHS)},{HEIGHT}",
                f"--screenshot={folder / 'page.png'}",
                "--dump-dom",
            ),
            url,
        ],
        capture_output=True,
        text=True,
        timeout=400,  # on a machine of many tests
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert console == []
    [measured] = re.findall(r'data-measured="([^"]+)"', done.stdout)
    return json.loads(unescape(measured)), cv2.imread(str(folder / "page.png"))
