"""``cytoserve segment``: what it writes, what it records, and what a rerun skips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from tritonclient.grpc.model_config_pb2 import ModelConfig

import cytoserve.cli.batch
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.codec import cards


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


def touched(images, out, write_image):
    write_image(images / "a" / "x.png", seed=77)


def removed(images, out, write_image):
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
    segment, images, tmp_path, triton, change, arguments, done, states, write_image
):
    segment()
    if change:
        change(images, tmp_path / "out", write_image)
    triton.asked.clear()
    result = segment(*arguments)
    assert result.exit_code == ExitCode.DONE
    assert sum(not name.endswith("_card") for name in triton.asked) == done
    assert list(states(tmp_path / "out").values()).count("skipped") == 4 - done
    if done == 0:
        assert "4 skipped" in segment().stdout  # and once more


def test_a_rerun_redoes_what_another_model_did(segment, triton, tmp_path, monkeypatch):
    segment()
    served = cards.encode_answer

    def retrained(card):
        models = {"yolo_cells": {"version": 2, "sha256": "new"}}
        return served(cytoserve.Card(card.pipeline, card.class_names, models))

    monkeypatch.setattr(cards, "encode_answer", retrained)
    assert segment().stdout.startswith("4 done")
    assert segment().stdout.startswith("4 skipped")
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["models"] == {"yolo_cells": "new"}


def test_a_rerun_redoes_what_another_variant_did(segment, triton, tmp_path, monkeypatch):
    served = cards.encode_answer

    def exported(card):
        models = {"yolo_cells": {"version": 1, "sha256": "ab"}}
        return served(cytoserve.Card(card.pipeline, card.class_names, models))

    monkeypatch.setattr(cards, "encode_answer", exported)
    segment()
    triton.configs["yolo_cells"] = ModelConfig(default_model_filename="model.int8.onnx")
    assert segment().stdout.startswith("4 done")
    assert segment().stdout.startswith("4 skipped")
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["models"] == {"yolo_cells": "ab model.int8.onnx"}


def test_capped_answers_are_reported(segment, tmp_path):
    result = segment("--max-cells", 2)
    assert result.exit_code == ExitCode.DONE
    assert result.stderr.count("3 cells found, the best 2 kept; raise --max-cells") == 4
    entry = json.loads((tmp_path / "out" / "run.json").read_text())["files"]["x.png"]
    assert (entry["capped"], entry["found"], entry["cells"]) == (True, 3, 2)


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
def test_wrong_usage(images, tmp_path, triton, arguments, told, command):
    given = [text.format(images=images, out=tmp_path / "out") for text in arguments]
    if "--url" not in given:
        given += ["--url", triton.url]
    result = command("segment", *given)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in result.stderr
