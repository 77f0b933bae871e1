"""``cytoserve segment``: bad files, servers that fail or die, full disks, killed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest

import cytoserve.cli.image_run
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.run_record import RunRecord

CLIENT = Path(__file__).parents[2] / "client"


def test_a_bad_file_is_recorded_and_the_rest_done(segment, images, tmp_path, states):
    (images / "a" / "bad.png").write_bytes((images / "x.png").read_bytes()[:99])
    (images / "b" / "empty.tif").write_bytes(b"")
    rgba = np.zeros((5, 5, 4), np.uint8)
    assert cv2.imwrite(str(images / "rgba.png"), rgba)
    result = segment(paths=(images, images / "notes.txt"))
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "4 done, 4 failed" in result.stderr
    found = states(tmp_path / "out")
    failed = {key for key, state in found.items() if state == "failed"}
    assert failed == {"a/bad.png", "b/empty.tif", "rgba.png", "notes.txt"}
    entry = json.loads((tmp_path / "out" / "run.json").read_text())["files"]["a/bad.png"]
    assert "UnreadableImage" in entry["error"]
    assert "Copy it again" in entry["error"]
    assert "a/bad.png" in result.stderr


def test_a_server_that_dies_stops_the_run_and_loses_nothing(
    segment, triton, tmp_path, monkeypatch, states
):
    monkeypatch.setattr(cytoserve.cli.image_run, "PAUSE_S", 0.05)
    triton.faults = [lambda _: None, lambda _: None, lambda _: triton.server.stop(grace=None)]
    result = segment("--wait-for-server", 0.5)
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert "2 done, 2 not done" in result.stderr
    assert "Run the same command again" in result.stderr
    assert list(states(tmp_path / "out").values()) == ["done", "done", "not done", "not done"]
    assert (tmp_path / "out" / "a" / "x_png_labels.tif").exists()
    triton.start()
    again = segment()
    assert again.exit_code == ExitCode.DONE
    assert again.stdout.startswith("2 done, 2 skipped")


def test_a_server_that_is_restarted_costs_nothing(segment, triton, abort, monkeypatch):
    monkeypatch.setattr(cytoserve.cli.image_run, "PAUSE_S", 0.05)
    triton.faults = [abort(grpc.StatusCode.INTERNAL, "Stub process is not healthy.")] * 4
    result = segment("--wait-for-server", 20)
    assert result.exit_code == ExitCode.DONE
    assert result.stdout.startswith("4 done")
    assert "waiting up to 20 s for the server" in result.stderr


def test_an_image_that_the_server_refuses_fails_alone(
    segment, triton, abort, images, tmp_path, states
):
    asked = [0]

    def third(context):
        frame_asked = triton.asked[-1] == "yolo_resnet"
        asked[0] += frame_asked
        if frame_asked and asked[0] in (3, 5):  # the third image, and its second try
            context.abort(grpc.StatusCode.INTERNAL, "onnx runtime error 6")

    triton.every = third
    result = segment()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert list(states(tmp_path / "out").values()) == ["done", "done", "failed", "done"]
    assert "onnx runtime error 6" in result.stderr


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        pytest.param(lambda t: t.stop(), ExitCode.SERVER_FAILED, "python -m server", id="gone"),
        pytest.param(
            lambda t: setattr(t.fake, "_pipelines", ("yolo",)),
            ExitCode.NOTHING_TO_DO,
            "python -m export yolo_resnet",
            id="not-served",
        ),
    ],
)
def test_a_server_that_cannot_help_is_told_at_once(segment, triton, tmp_path, make, code, told):
    make(triton)
    result = segment()
    assert result.exit_code == code
    assert told in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_killed_run_loses_nothing(images, tmp_path, triton, command):
    out = tmp_path / "out"
    triton.faults = [lambda _: None, lambda _: None, lambda _: time.sleep(60)]
    arguments = ["segment", images, "--out", out, "--url", triton.url]
    run = subprocess.Popen(
        [sys.executable, "-m", "cytoserve", *arguments],
        env={**os.environ, "PYTHONPATH": str(CLIENT)},
    )
    while triton.asked.count("yolo_resnet") < 3:
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    run.wait()
    assert sorted(RunRecord.open(out).files) == ["a/x.png", "b/c/y.jpg"]
    triton.stop()
    triton.faults.clear()
    triton.start()
    result = command(*arguments)
    assert result.stdout.startswith("2 done, 2 skipped"), result.output
    assert not (out / "run.journal").exists()
    assert not list(out.rglob("*.part"))


def test_a_torn_journal_line_is_left_out(tmp_path):
    record = RunRecord(tmp_path)
    record.put("a.png", {"status": "done"})
    with (tmp_path / "run.journal").open("a") as journal:
        journal.write('\n["b.png", {"stat')
    opened = RunRecord.open(tmp_path)
    assert opened.files == {"a.png": {"status": "done"}}
    opened.put("c.png", {"status": "done"})
    assert set(RunRecord.open(tmp_path).files) == {"a.png", "c.png"}
    opened.save({})
    assert not (tmp_path / "run.journal").exists()
    assert set(RunRecord.open(tmp_path).files) == {"a.png", "c.png"}


def test_a_run_json_of_another_program_is_left_alone(segment, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("[1]")
    result = segment()
    assert result.exit_code == ExitCode.USAGE
    assert "Move it away" in result.stderr
    assert (tmp_path / "out" / "run.json").read_text() == "[1]"


def test_a_full_disk_ends_in_a_message(segment, tmp_path, monkeypatch):
    real = Path.write_bytes

    def full(path, content):
        if "labels" in path.name:
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    result = segment()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "No space left on device" in result.stderr


def test_a_record_that_cannot_be_written_ends_the_run(segment, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunRecord, "put", full)
    result = segment()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "No space left on device. Make room" in result.stderr
