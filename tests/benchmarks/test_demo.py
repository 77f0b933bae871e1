"""The demo: the shipped networks, served, on the images that the project ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.demo.__main__ import main

ROOT = Path(__file__).parents[2]
CELLS = {
    "nuclei.png": (40, 56),
    "nuclei-dense.png": (60, 140),
    "nuclei-large.png": (12, 20),
    "nuclei-sparse.png": (20, 30),
    "stained-tissue.png": (30, 80),
    "rendered-empty.png": (0, 3),
    "rendered-large.png": (150, 250),
}
"""Image -> fewest and most cells that a look at it allows."""


@pytest.mark.slow
def test_cells_of_every_image_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, ["--out", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "demo" / "yolo" / "run.json").read_text())
    assert {
        key: low <= record["files"][key]["cells"] <= high for key, (low, high) in CELLS.items()
    } == dict.fromkeys(CELLS, True)
    for key in CELLS:
        for ending in ("labels.tif", "table.csv", "overlay.png"):
            name = f"{key.replace('.', '_')}_{ending}"
            assert (tmp_path / "demo" / "yolo" / name).is_file(), name
        assert f"| {key} |" in done.output
