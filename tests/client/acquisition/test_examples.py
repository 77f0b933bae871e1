"""The examples for a microscope, as a user runs them: on the simulated one, over gRPC.

A finder of bright spots stands in for the networks, so that the truth is known.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from cytoserve import FakeServer, Foreground, cells_from_labels
from tests.client.conftest import SocketServer

pytest.importorskip("pymmcore_plus", reason="needs the dependency group dev")
pytest.importorskip("mm_test_adapters", reason="needs the dependency group dev")

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "client" / "examples" / "microscope"
SPOTS = [(-200, -100), (-60, 40), (30, -150), (110, 90), (240, 10)]
"""Centres of the cells on the stage, (x, y) in micrometres; the picture's middle is (0, 0)."""
WIDTH, HEIGHT, RADIUS = 900, 512, 12


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    drawn = np.full((HEIGHT, WIDTH), 10, np.uint8)
    for x, y in SPOTS:
        cv2.circle(drawn, (x + WIDTH // 2, y + HEIGHT // 2), RADIUS, 200, -1)
    cv2.imwrite(str(tmp_path / "picture.png"), drawn)
    return tmp_path / "picture.png"


def bright(frame):
    return (frame[..., 0] > frame.max() // 2) & (frame.max() > 5 * np.median(frame))


def find_cells(frame):
    number, labels = cv2.connectedComponents(bright(frame).astype(np.uint8))
    return cells_from_labels(labels.astype(np.uint16), np.zeros(number - 1, int), ("cell",))


def find_foreground(frame):
    return Foreground.from_probability(np.uint8(255) * bright(frame), 0.5, "cell")


@pytest.fixture
def server() -> Iterator[SocketServer]:
    fake = FakeServer(find_cells, ("cell",), foreground=find_foreground)
    serving = SocketServer(fake)
    serving.start()
    yield serving
    serving.stop()


def run(name: str, picture: Path, server: SocketServer, *options: str) -> str:
    command = [sys.executable, EXAMPLES / name, "--picture", picture, "--url", server.url, *options]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=picture.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_drawn(file: Path) -> None:
    drawn = cv2.imread(str(file))
    assert drawn.min() < 100 < drawn.max()


def test_counting_a_time_lapse(picture: Path, server: SocketServer) -> None:
    said = run("count_while_it_runs.py", picture, server, "--frames=5", "--interval=0.2")
    counts = [int(n) for n in re.findall(r"^t=\d: (\d+) cells", said, re.MULTILINE)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, len(SPOTS))
    assert "submitted=5, answered=5, dropped=0" in said
    assert_drawn(picture.parent / "counts.png")


def test_every_cell_is_seen_once_at_high_magnification(picture: Path, server: SocketServer) -> None:
    said = run("revisit_cells.py", picture, server)
    seen = [tuple(map(int, pair)) for pair in re.findall(r"^\((-?\d+), (-?\d+)\) um", said, re.M)]
    assert len(seen) == len(SPOTS)
    for spot in SPOTS:
        [near] = [place for place in seen if np.hypot(*np.subtract(place, spot)) <= 1.5]
        seen.remove(near)
    assert "5 cells of class cell were looked at" in said
    assert_drawn(picture.parent / "visited.png")


def test_a_time_lapse_stops_at_a_confluency(picture: Path, server: SocketServer) -> None:
    said = run("stop_at_confluency.py", picture, server, "--confluency=0.5", "--frames=20")
    percents = [float(n) for n in re.findall(r"([\d.]+) % are covered", said)]
    assert max(percents[:-1]) < 0.5 <= percents[-1]
    [taken] = re.findall(r"(\d+) of at most 20 frames were taken", said)
    assert len(percents) <= int(taken) < 20
    assert_drawn(picture.parent / "confluency.png")


def test_a_table_that_grows(picture: Path, server: SocketServer) -> None:
    said = run("keep_a_table.py", picture, server)
    assert len(re.findall("answered", said)) == 9
    with (picture.parent / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    middle = [row for row in rows if row["field"] == "4"]
    places = sorted((float(row["x_um"]), float(row["y_um"])) for row in middle)
    whole = sorted(spot for spot in SPOTS if abs(spot[0]) + RADIUS < 256)
    assert np.abs(np.array(places) - whole).max() <= 1.0
    assert_drawn(picture.parent / "cells.png")


@pytest.mark.parametrize("name", [file.name for file in sorted(EXAMPLES.glob("*_*.py"))])
def test_examples_are_short(name: str) -> None:
    most = 100 if name == "simulated_microscope.py" else 59
    assert len((EXAMPLES / name).read_text().splitlines()) <= most
