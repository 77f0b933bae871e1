"""``cytoserve segment``: what it writes, what it records, and what a rerun skips."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from tritonclient.grpc.model_config_pb2 import ModelConfig

import cytoserve.cli.image_run
from cytoserve import LearnedScale
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.codec import cards


def test_segment_writes_everything_where_it_belongs(segment, cells, tmp_path, images):
    result = segment("--save", "labels,table,overlay,coco", "--pipeline", "yolo")
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("4 done. Recorded in ")
    out = tmp_path / "out"
    stems = ("x_png", "x_tif", "a/x_png", "b/c/y_jpg")
    endings = ("labels.tif", "table.csv", "overlay.png", "coco.json")
    expected = {f"{stem}_{ending}" for stem in stems for ending in endings}
    expected |= {"run.json", "cells.csv"}
    assert {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
    } == expected
    labels = tifffile.imread(out / "a" / "x_png_labels.tif")
    np.testing.assert_array_equal(labels, cells.label_image())


def test_the_record_tells_what_was_done(segment, tmp_path, triton):
    segment("--score-threshold", 0.5, "--scale", 2)
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["cytoserve"] == cytoserve.__version__
    assert record["server"] == {"url": triton.url, "name": "triton", "version": "2.51.0"}
    assert (record["settings"]["score_threshold"], record["settings"]["scale"]) == (0.5, 2)
    assert record["summary"] == {"done": 4, "skipped": 0, "failed": 0, "not done": 0}
    assert record["seconds"] > 0
    entry = record["files"]["a/x.png"]
    assert entry["cells"] == 2
    assert entry["classes"] == {"RBC": 1, "WBC": 1}
    assert (entry["score_threshold"], entry["scale"]) == (0.5, 2)
    assert "pixel_size_um" not in entry
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
        pytest.param(None, ("--scale", 1), 4, id="scale"),
        pytest.param(None, ("--scale", "fit"), 4, id="fit"),
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


@pytest.mark.parametrize(
    ("first", "second", "done"),
    [
        pytest.param(("overlay",), ("overlay",), 0, id="nothing"),
        pytest.param(("overlay",), ("overlay", "--numbers"), 4, id="numbers"),
        pytest.param(("overlay", "--numbers"), ("overlay",), 4, id="no-numbers"),
        pytest.param(
            ("labels,overlay", "--numbers"), ("labels",), 0, id="numbers-are-of-the-overlay-only"
        ),
        pytest.param(("labels",), ("labels,overlay",), 4, id="another-output"),
    ],
)
@pytest.mark.parametrize("pipeline", ["yolo", "nuclei_unet"])
def test_a_rerun_redoes_what_the_overlay_shows(segment, triton, first, second, done, pipeline):
    def run(save, *more):
        if pipeline == "nuclei_unet":
            save = save.replace("labels", "mask")
        result = segment("--pipeline", pipeline, "--save", save, *more)
        assert result.exit_code == ExitCode.DONE, result.output

    run(*first)
    triton.asked.clear()
    run(*second)
    assert triton.asked.count(pipeline) == done


def overlay(out, name="x_png_overlay.png"):
    return cv2.imread(str(out / name))


@pytest.mark.parametrize("pipeline", ["yolo", "nuclei_unet", "glioma_unet"])
@pytest.mark.parametrize("option", [("--numbers",), ("--pixel-size", 0.5)])
def test_the_overlay_shows_what_was_asked(segment, triton, tmp_path, pipeline, option):
    triton.fake._scale = SCALE
    segment("--pipeline", pipeline, "--save", "overlay")
    plain = overlay(tmp_path / "out")
    result = segment("--pipeline", pipeline, "--save", "overlay", *option)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("4 done")
    changed = (plain != overlay(tmp_path / "out")).any(axis=2)
    columns = np.nonzero(changed)[1]
    assert 20 < changed.sum() < 0.1 * changed.size
    assert (option[0] == "--numbers") == (columns.min() < changed.shape[1] / 2)


SCALE = LearnedScale(2.0, 30.0, 60.0, pixel_size_um=0.5)


@pytest.fixture
def measured(images):
    """An OME-TIFF whose pixels measure 1 um, an ImageJ TIFF of 0.25 um, and two files that tell
    no size."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8)
    for old in ("a/x.png", "b/c/y.jpg"):
        (images / old).unlink()
    metadata = {"axes": "YX", "PhysicalSizeX": 1.0}
    tifffile.imwrite(images / "o.ome.tif", pixels, ome=True, metadata=metadata)
    tifffile.imwrite(
        images / "j.tif", pixels, imagej=True, resolution=(4, 4), metadata={"unit": "um"}
    )
    return images


@pytest.mark.parametrize(
    ("learned", "arguments", "scales"),
    [
        pytest.param(SCALE, (), {"o.ome.tif": 2, "j.tif": 0.5}, id="the-files"),
        pytest.param(replace(SCALE, pixel_size_um=None), (), {}, id="the-model-knows-none"),
        pytest.param(None, (), {}, id="the-model-tells-nothing"),
        pytest.param(SCALE, ("--scale", 1), {}, id="told-otherwise"),
        pytest.param(
            SCALE,
            ("--scale", "fit"),
            dict.fromkeys(("o.ome.tif", "j.tif", "x.png", "x.tif"), 4.0),
            id="fit",
        ),
        pytest.param(
            SCALE,
            ("--cell-diameter", 10),
            dict.fromkeys(("o.ome.tif", "j.tif", "x.png", "x.tif"), 3.0),
            id="diameter",
        ),
        pytest.param(
            SCALE,
            ("--pixel-size", 0.75),
            dict.fromkeys(("o.ome.tif", "j.tif", "x.png", "x.tif"), 1.5),
            id="pixel-size-of-the-option",
        ),
    ],
)
def test_the_pixel_size_of_a_file_is_used_where_the_model_knows_its_own(
    segment, triton, measured, tmp_path, learned, arguments, scales
):
    triton.fake._scale = learned
    result = segment("--pipeline", "yolo", *arguments)
    assert result.exit_code == ExitCode.DONE, result.output
    files = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["files"]
    assert set(files) == {"o.ome.tif", "j.tif", "x.png", "x.tif"}
    for name, entry in files.items():
        assert entry["scale"] == pytest.approx(scales.get(name, 1))
    network_scale = 1 if learned is None else learned.network_scale
    sent = [
        request.inputs["scale"].item()
        for request in triton.fake.requests
        if "image" in request.inputs
    ]
    assert sent == pytest.approx([network_scale * files[name]["scale"] for name in sorted(files)])
    used = {
        name: entry["pixel_size_um"] for name, entry in files.items() if "pixel_size_um" in entry
    }
    if "--pixel-size" in arguments:
        assert used == dict.fromkeys(files, 0.75)
    else:
        assert used == ({} if arguments or not scales else {"o.ome.tif": 1, "j.tif": 0.25})


@pytest.mark.parametrize("pipeline", ["yolo", "nuclei_unet"])
def test_the_pixel_size_of_a_file_draws_a_scale_bar(segment, measured, tmp_path, pipeline):
    segment("--pipeline", pipeline, "--save", "overlay")  # the model knows none
    plain, *barred = (
        overlay(tmp_path / "out", f"{name}_overlay.png") for name in ("x_tif", "o.ome_tif", "j_tif")
    )
    for picture in barred:
        assert (picture != plain).any()


@pytest.mark.parametrize(
    ("learned", "arguments", "told"),
    [
        pytest.param(None, ("--pixel-size", 0.5), "--cell-diameter", id="pixel-size"),
        pytest.param(
            replace(SCALE, pixel_size_um=None),
            ("--pixel-size", 0.5, "--save", "overlay"),
            "train again with --pixel-size",
            id="pixel-size-of-an-overlay",
        ),
        pytest.param(None, ("--cell-diameter", 9), "(scale, --scale)", id="diameter"),
    ],
)
def test_what_the_model_cannot_compare_is_refused_before_an_image_is_sent(
    segment, triton, tmp_path, learned, arguments, told
):
    triton.fake._scale = learned
    result = segment(*arguments)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in result.stderr
    assert set(triton.asked) == {"yolo_resnet_card"}
    assert not (tmp_path / "out").exists()


def test_an_image_that_would_be_scaled_too_far_fails_alone(segment, images, tmp_path):
    assert cv2.imwrite(str(images / "long.png"), np.zeros((9000, 9), np.uint8))
    result = segment("--scale", 4)
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "4 done, 1 failed" in result.stderr
    entry = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["files"]["long.png"]
    assert "at most 32,768 px; given: 9,000 px at 4" in entry["error"]
    assert "--scale fit" in entry["error"]


def test_a_rerun_redoes_what_another_model_did(segment, triton, tmp_path, monkeypatch):
    segment()
    served = cards.encode_answer

    def retrained(card):
        models = {"yolo_cells": {"version": 2, "sha256": "new"}}
        return served(cytoserve.ModelCard(card.pipeline, card.class_names, models))

    monkeypatch.setattr(cards, "encode_answer", retrained)
    assert segment().stdout.startswith("4 done")
    assert segment().stdout.startswith("4 skipped")
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["models"] == {"yolo_cells": "new"}


def test_a_rerun_redoes_what_another_variant_did(segment, triton, tmp_path, monkeypatch):
    served = cards.encode_answer

    def exported(card):
        models = {"yolo_cells": {"version": 1, "sha256": "ab"}}
        return served(cytoserve.ModelCard(card.pipeline, card.class_names, models))

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
    assert result.stderr.count("3 cells found, the best 2 kept. Raise --max-cells") == 1
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
        *(
            pytest.param(
                ["{images}", "--out", "{out}", option, value], told, id=f"{option[2:]}-{value}"
            )
            for option in ("--scale", "--pixel-size", "--cell-diameter")
            for value, told in {
                "0": f"({option}) is a number from 0.0001 to 10000",
                "-1": "given: -1.0",
                "nan": "given: nan",
                "inf": "given: inf",
                "1e5": "to 10000",
                "wide": "'wide'",
                "True": "'True'",
                "": "''",
            }.items()
        ),
        pytest.param(
            ["{images}", "--out", "{out}", "--scale", "2", "--cell-diameter", "9"],
            "Leave all but one out",
            id="two-scales",
        ),
        pytest.param(
            ["{images}", "--out", "{out}", "--scale", "fit", "--pixel-size", "1"],
            "given: scale='fit' and pixel_size_um=1.0",
            id="fit-and-pixel-size",
        ),
        pytest.param(
            ["{images}", "--out", "{out}", "--numbers", "--save", "labels"],
            "given: --numbers for yolo_resnet with --save labels. Add overlay to --save.",
            id="numbers-without-overlay",
        ),
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
    assert not [request for request in triton.fake.requests if "image" in request.inputs]
