"""A folder of frames through the CLI while the server fails: nothing that is done is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from cytoserve import read_frame
from server.embedded import EmbeddedServer
from training.rendered import RenderSettings, render_frame

CLI = Path(sys.executable).with_name("cytoserve")
FRAMES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rendered frames, and one file that is no image."""
    folder = tmp_path_factory.mktemp("frames")
    for seed in range(FRAMES):
        frame, _ = render_frame(RenderSettings(height=480, width=640, cells=10), seed)
        assert cv2.imwrite(str(folder / f"frame_{seed}.png"), frame)
    (folder / "notes.png").write_text("this is no image")
    return folder


@pytest.fixture
def mortal(exported_repository):
    """A server of this test's own, which it may kill."""
    server = EmbeddedServer(exported_repository, ["yolo"])
    with server:
        yield server


def segment(folder: Path, out: Path, url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [CLI, "segment", folder, "--pipeline", "yolo", "--out", out, "--url", url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_results(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("*_labels.tif"))) < count:
        assert time.monotonic() < deadline, "no results within a minute"
        time.sleep(0.02)


def test_a_bad_file_does_not_stop_the_folder(folder, server, tmp_path):
    process = segment(folder, tmp_path, server.url, "--save", "labels,table,overlay,coco")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 3, output
    assert "notes.png" in output
    assert len(list(tmp_path.glob("*_labels.tif"))) == FRAMES
    for kind in ("*_table.csv", "*_overlay.png", "*_coco.json"):
        assert len(list(tmp_path.glob(kind))) == FRAMES
    labels = read_frame(next(tmp_path.glob("*_labels.tif")))
    assert labels.shape == (480, 640)
    assert labels.dtype == np.uint16


def test_a_triton_killed_in_the_middle_is_waited_for(folder, mortal, tmp_path):
    process = segment(folder, tmp_path, mortal.url)
    wait_for_results(tmp_path, 2)
    [triton] = [
        child
        for child in psutil.Process(mortal.pid).children(recursive=True)
        if child.name() == "tritonserver"
    ]
    triton.kill()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 3, output  # the one file that is no image
    assert len(list(tmp_path.glob("*_labels.tif"))) == FRAMES


def test_a_server_that_is_gone_ends_the_run_and_the_next_run_goes_on(
    folder, exported_repository, tmp_path
):
    with EmbeddedServer(exported_repository, ["yolo"]) as server:
        process = segment(folder, tmp_path, server.url, "--wait-for-server", "2")
        wait_for_results(tmp_path, 2)
        os.kill(server.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 4, output
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_labels.tif")}
    assert 2 <= len(done) < FRAMES
    with EmbeddedServer(exported_repository, ["yolo"]) as server:
        process = segment(folder, tmp_path, server.url)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 3, output
    assert len(list(tmp_path.glob("*_labels.tif"))) == FRAMES
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done.items())
