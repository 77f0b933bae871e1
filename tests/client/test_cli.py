"""The commands, through real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import cv2
import grpc
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import cytoserve.cli.batch
from cytoserve.cli import main
from cytoserve.cli.exit_codes import MEANINGS, ExitCode
from cytoserve.cli.inputs import Input, find_inputs
from cytoserve.cli.run_record import RunRecord

CLIENT = Path(__file__).parents[2] / "client"


def cytoserve_(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 80)).astype(np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def states(out):
    files = json.loads((out / "run.json").read_text("utf-8"))["files"]
    return {key: entry["status"] for key, entry in files.items()}


@pytest.fixture
def images(tmp_path):
    """Four good images, two of a name, and a text file, in folders."""
    folder = tmp_path / "images"
    for seed, name in enumerate(("x.png", "x.tif", "a/x.png", "b/c/y.jpg")):
        image(folder / name, seed)
    (folder / "notes.txt").write_text("no image")
    (folder / "d.0").mkdir()
    (folder / "d.0" / "z").write_text("no image")
    (folder / "a" / "._x.png").write_text("left by another system")
    return folder


@pytest.fixture
def segment(triton, images, tmp_path):
    """Runs ``cytoserve segment`` on the images against the server."""

    def run(*arguments, paths=(images,)):
        out = tmp_path / "out"
        return cytoserve_("segment", *paths, "--out", out, "--url", triton.url, *arguments)

    return run


def test_segment_writes_everything_where_it_belongs(segment, cells, tmp_path, images):
    result = segment("--save", "labels,table,overlay,coco", "--pipeline", "yolo")
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("4 done. Recorded in ")
    out = tmp_path / "out"
    stems = ("x_png", "x_tif", "a/x_png", "b/c/y_jpg")
    endings = ("labels.tif", "table.csv", "overlay.png", "coco.json")
    expected = {f"{stem}_{ending}" for stem in stems for ending in endings} | {"run.json"}
    assert {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
    } == expected
    labels = tifffile.imread(out / "a" / "x_png_labels.tif")
    np.testing.assert_array_equal(labels, cells.label_image())


def test_the_record_tells_what_was_done(segment, tmp_path, triton):
    segment("--score-threshold", 0.5)
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["cytoserve"] == cytoserve.__version__
    assert record["server"] == {"url": triton.url, "name": "triton", "version": "2.51.0"}
    assert record["settings"]["score_threshold"] == 0.5
    assert record["summary"] == {"done": 4, "skipped": 0, "failed": 0, "not done": 0}
    assert record["seconds"] > 0
    entry = record["files"]["a/x.png"]
    assert entry["cells"] == 2
    assert entry["classes"] == {"RBC": 1, "WBC": 1}
    assert set(entry["seconds"]) == {"read", "segment", "save"}
    assert len(entry["sha256"]) == 64
    assert entry["outputs"] == ["a/x_png_labels.tif", "a/x_png_table.csv"]
    assert entry["job"]["pipeline"] == "yolo_resnet"


def touched(images, out, triton):
    image(images / "a" / "x.png", seed=77)


def removed(images, out, triton):
    (out / "a" / "x_png_labels.tif").unlink()


@pytest.mark.parametrize(
    ("change", "arguments", "done"),
    [
        pytest.param(None, (), 0, id="nothing"),
        pytest.param(None, ("--save", "labels"), 0, id="fewer-outputs"),
        pytest.param(None, ("--save", "labels,coco"), 4, id="another-output"),
        pytest.param(None, ("--score-threshold", 0.3), 4, id="settings"),
        pytest.param(None, ("--max-cells", 5), 4, id="cap"),
        pytest.param(None, ("--pipeline", "yolo"), 4, id="pipeline"),
        pytest.param(touched, (), 1, id="one-input"),
        pytest.param(removed, (), 1, id="one-output-removed"),
    ],
)
def test_a_rerun_skips_what_is_up_to_date(
    segment, images, tmp_path, triton, change, arguments, done
):
    segment()
    if change:
        change(images, tmp_path / "out", triton)
    triton.asked.clear()
    result = segment(*arguments)
    assert result.exit_code == ExitCode.DONE
    assert sum(not name.endswith("_card") for name in triton.asked) == done
    assert list(states(tmp_path / "out").values()).count("skipped") == 4 - done
    if done == 0:
        assert "4 skipped" in segment().stdout  # and once more


def test_a_rerun_redoes_what_another_model_did(segment, triton, tmp_path, monkeypatch):
    segment()
    served = cytoserve.codec.encode_card

    def retrained(card):
        models = {"yolo_cells": {"version": 2, "sha256": "new"}}
        return served(cytoserve.Card(card.pipeline, card.class_names, models))

    monkeypatch.setattr("cytoserve.codec.encode_card", retrained)
    assert segment().stdout.startswith("4 done")
    assert segment().stdout.startswith("4 skipped")
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["models"] == {"yolo_cells": "new"}


def test_a_bad_file_is_recorded_and_the_rest_done(segment, images, tmp_path):
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


def test_capped_answers_are_reported(segment, tmp_path):
    result = segment("--max-cells", 2)
    assert result.exit_code == ExitCode.DONE
    assert result.stderr.count("3 cells found, the best 2 kept; raise --max-cells") == 4
    entry = json.loads((tmp_path / "out" / "run.json").read_text())["files"]["x.png"]
    assert (entry["capped"], entry["found"], entry["cells"]) == (True, 3, 2)


def test_a_server_that_dies_stops_the_run_and_loses_nothing(segment, triton, tmp_path, monkeypatch):
    monkeypatch.setattr(cytoserve.cli.batch, "PAUSE_S", 0.05)
    triton.faults = [lambda _: None, lambda _: None, lambda _: triton.server.stop(grace=None)]
    result = segment("--patience", 0.5)
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
    monkeypatch.setattr(cytoserve.cli.batch, "PAUSE_S", 0.05)
    triton.faults = [abort(grpc.StatusCode.INTERNAL, "Stub process is not healthy.")] * 4
    result = segment("--patience", 20)
    assert result.exit_code == ExitCode.DONE
    assert result.stdout.startswith("4 done")
    assert "waiting up to 20 s for the server" in result.stderr


def test_an_image_that_the_server_refuses_fails_alone(segment, triton, abort, images, tmp_path):
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["{images}/none.png", "--out", "{out}"], "does not exist", id="no-path"),
        pytest.param(["{images}", "--out", "{images}"], "kept apart", id="out-is-in"),
        pytest.param(["{images}/*.png", "--out", "{images}"], "kept apart", id="out-is-in-glob"),
        pytest.param(["{images}", "--out", "{out}", "--save", "pdf"], "labels, table", id="save"),
        pytest.param(["{images}", "--out", "{out}", "--max-cells", "0"], "max_cells", id="cap"),
        pytest.param(
            ["{images}", "--out", "{out}", "--score-threshold", "2"], "score_threshold", id="score"
        ),
        pytest.param(["{images}", "--out", "{out}", "--timeout", "0"], "above 0", id="timeout"),
        pytest.param(["{images}", "--out", "{out}", "--url", "http://x"], "host:port", id="url"),
        pytest.param(
            ["{images}", "--out", "{out}", "--pipeline", "z"], "yolo_resnet", id="pipeline"
        ),
        pytest.param(["{images}", "--out", "{images}/x.png/y"], "cannot go to", id="out-in-a-file"),
        pytest.param(["--out", "{out}"], "Missing argument", id="no-paths"),
        pytest.param(["{images}"], "--out", id="no-out"),
    ],
)
def test_wrong_usage(images, tmp_path, triton, arguments, told):
    given = [text.format(images=images, out=tmp_path / "out") for text in arguments]
    if "--url" not in given:
        given += ["--url", triton.url]
    result = cytoserve_("segment", *given)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in result.stderr


def test_a_folder_without_images(tmp_path, triton):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "empty" / "*.png"):
        result = cytoserve_("segment", path, "--out", tmp_path / "out", "--url", triton.url)
        assert result.exit_code == ExitCode.NOTHING_TO_DO
        assert "No image found" in result.stderr


@pytest.mark.parametrize(
    ("paths", "keys"),
    [
        pytest.param(["."], ["a/x.png", "b/c/y.jpg", "x.png", "x.tif"], id="folder"),
        pytest.param(["a", "b"], ["a/x.png", "b/c/y.jpg"], id="two-folders"),
        pytest.param(["x.png", "a/x.png"], ["a/x.png", "x.png"], id="files-of-one-name"),
        pytest.param(["x.*"], ["x.png", "x.tif"], id="glob"),
        pytest.param(["**/*.png"], ["a/x.png", "x.png"], id="deep-glob"),
        pytest.param(["*"], ["a/x.png", "b/c/y.jpg", "x.png", "x.tif"], id="glob-of-folders"),
        pytest.param(["x.png", "x.png", "./a/../x.png", "*.png"], ["x.png"], id="each-once"),
        pytest.param(["b/c/y.jpg"], ["y.jpg"], id="one-file"),
        pytest.param(["d.0/z", "x.png"], ["d.0/z", "x.png"], id="without-a-suffix"),
        pytest.param(["notes.txt", "x.png"], ["notes.txt", "x.png"], id="named-file-is-tried"),
    ],
)
def test_which_images_are_meant(images, monkeypatch, paths, keys):
    monkeypatch.chdir(images)
    found = find_inputs(paths, images / "out")
    assert [given.key for given in found] == keys
    assert all(given.path.is_file() for given in found)
    outputs = [given.output("labels.tif") for given in found]
    assert len(set(outputs)) == len(outputs)
    assert [output.rpartition("/")[0] for output in outputs] == [
        key.rpartition("/")[0] for key in keys
    ]


def test_results_never_share_a_name(tmp_path):
    keys = ("x.png", "x.tif", "x", "x_png", "x_png.tif", "a.b.png", "a_b.png", "a/b.png", "a/b")
    outputs = {Input(tmp_path, key).output("labels.tif") for key in keys}
    assert len(outputs) == len(keys)
    assert Input(tmp_path, "a.0/b.png").output("labels.tif") == "a.0/b_png_labels.tif"


def test_results_within_the_folder_are_no_images(segment, images, tmp_path):
    out = images / "cells"
    for state in ("done", "skipped"):
        result = segment("--out", out, "--save", "labels,overlay")
        assert result.stdout.startswith(f"4 {state}."), result.output


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(images):
    odd = image(images / "field[1].png")
    assert [given.key for given in find_inputs([str(odd)], images / "out")] == ["field[1].png"]


def test_a_killed_run_loses_nothing(images, tmp_path, triton):
    out = tmp_path / "out"
    triton.faults = [lambda _: None, lambda _: None, lambda _: time.sleep(60)]
    command = [sys.executable, "-m", "cytoserve", "segment", images, "--out", out]
    run = subprocess.Popen(
        [*command, "--url", triton.url], env={**os.environ, "PYTHONPATH": str(CLIENT)}
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
    result = cytoserve_("segment", images, "--out", out, "--url", triton.url)
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


def test_pipelines(triton, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    triton.fake._pipelines = ("yolo",)
    result = cytoserve_("pipelines", "--url", triton.url)
    assert result.exit_code == ExitCode.DONE, result.output
    for part in ("yolo", "yes", "yolo_resnet", "no", "RBC, WBC", "S1, approach 2"):
        assert part in result.stdout


def test_doctor(triton):
    result = cytoserve_("doctor", "--url", triton.url)
    assert result.exit_code == ExitCode.DONE
    for part in (cytoserve.__version__, "triton 2.51.0", "yolo: a test image answered in"):
        assert part in result.stdout
    assert result.stdout.count("ok ") == 4


def test_doctor_finds_a_pipeline_that_answers_nonsense(triton):
    triton.spoil = lambda answer: answer.outputs[0].shape.__setitem__(0, 99)
    result = cytoserve_("doctor", "--url", triton.url)
    assert result.exit_code == ExitCode.SOME_FAILED
    assert result.stdout.count("FAIL yolo") == 2


@pytest.mark.parametrize("command", ["doctor", "pipelines"])
def test_without_a_server_or_a_pipeline(command, triton):
    triton.fake._pipelines = ()
    result = cytoserve_(command, "--url", triton.url)
    assert result.exit_code == ExitCode.NOTHING_TO_DO
    assert "xport" in result.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        result = cytoserve_(command, "--url", url)
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert "python -m server" in result.output


@pytest.mark.parametrize("name", [None, *main.commands])
def test_every_command_and_option_has_help(name):
    command = main if name is None else main.commands[name]
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
    arguments = ["--help"] if name is None else [name, "--help"]
    text = cytoserve_(*arguments).stdout
    for code, meaning in MEANINGS.items():
        assert f"{code.value}  {meaning}" in text
    assert set(MEANINGS) == set(ExitCode)
    assert {code.value for code in ExitCode} == {0, 2, 3, 4, 5}


def test_the_url_may_come_from_the_environment(triton, monkeypatch):
    monkeypatch.setenv("CYTOSERVE_URL", triton.url)
    assert cytoserve_("doctor").exit_code == ExitCode.DONE


def test_version():
    assert cytoserve.__version__ in cytoserve_("--version").stdout
