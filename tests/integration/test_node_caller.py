"""A caller that is not Python gets the same cells, with nothing but the contract's tensors."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cytoserve import Client
from server.embedded import EmbeddedServer
from training.rendered import RenderSettings, render_frame

EXAMPLE = Path(__file__).parents[2] / "client" / "examples" / "node"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, installed by the lock."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("node")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the locked packages here: {done.stderr[-300:]}")
    return folder / "segment.mjs"


def write_pgm(file: Path, frame: np.ndarray) -> None:
    most = 255 if frame.dtype == np.uint8 else 65535
    head = f"P5\n# a camera\n{frame.shape[1]} {frame.shape[0]}\n{most}\n"
    pixels = frame if most == 255 else frame.astype(">u2")  # PGM has the high byte first
    file.write_bytes(head.encode() + pixels.tobytes())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("pipeline", ["yolo", "maskrcnn"])
def test_it_gets_the_same_cells(
    program: Path, server: EmbeddedServer, tmp_path: Path, pipeline: str, dtype: type
) -> None:
    frame = render_frame(RenderSettings(height=300, width=420, cells=8), 4)[0]
    if dtype is np.uint8:
        frame = (frame >> 8).astype(np.uint8)
    write_pgm(tmp_path / "frame.pgm", frame)
    command = ["node", str(program), server.url, pipeline, str(tmp_path / "frame.pgm")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["cells"]
    with Client(server.url, timeout=60) as client:
        expected = client.segment(frame, pipeline)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose([cell["box"] for cell in found], expected.boxes, atol=1e-3)
    np.testing.assert_allclose([cell["score"] for cell in found], expected.scores, atol=1e-5)
    names = [expected.class_names[index] for index in expected.class_ids]
    assert [cell["class"] for cell in found] == names


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["localhost:8001", "yolo"], "node segment.mjs HOST:PORT", id="no-frame"),
        pytest.param(["localhost:8001", "yolo", __file__], "must be a binary PGM", id="no-pgm"),
    ],
)
def test_wrong_arguments_are_told(program: Path, arguments: list[str], told: str) -> None:
    done = subprocess.run(["node", str(program), *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert told in done.stderr
    assert "at main" not in done.stderr
