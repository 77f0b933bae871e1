"""``cytoserve segment`` with semantic pipelines: what it writes, records and refuses."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import tifffile

import cytoserve.cli.image_run
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.contract import PIPELINES
from cytoserve.outputs import FOREGROUND_OUTPUTS

SEMANTIC = [name for name, pipeline in PIPELINES.items() if pipeline.is_semantic]
STEMS = ("x_png", "x_tif", "a/x_png", "b/c/y_jpg")


def files(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def record(out):
    return json.loads((out / "run.json").read_text("utf-8"))


@pytest.mark.parametrize("name", SEMANTIC)
def test_everything_is_written_where_it_belongs(segment, foreground, tmp_path, name):
    result = segment("--pipeline", name, "--save", ",".join(FOREGROUND_OUTPUTS))
    assert result.exit_code == ExitCode.DONE, result.output
    out = tmp_path / "out"
    endings = [output.ending for output in FOREGROUND_OUTPUTS.values()]
    joined = {"components.csv", "components.parquet", "summary.csv", "run.json"}
    expected = {f"{stem}_{ending}" for stem in STEMS for ending in endings} | joined
    in_folders = {file.partition(".zarr/")[0] + ".zarr" for file in files(out) if ".zarr/" in file}
    assert {file for file in files(out) if ".zarr/" not in file} | in_folders == expected
    mask = tifffile.imread(out / "a" / "x_png_mask.tif")
    np.testing.assert_array_equal(mask, np.uint8(255) * foreground.mask)
    probability = tifffile.imread(out / "a" / "x_png_probability.tif")
    np.testing.assert_array_equal(probability, foreground.probability)
    picture = cv2.imread(str(out / "a" / "x_png_overlay.png"))
    assert picture.shape[1] == 640  # 8 times the frame's width
    with (out / "a" / "x_png_summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == "a/x.png"
    assert row["nuclei"] == ("3" if name == "nuclei_unet" else "")
    coco = json.loads((out / "a" / "x_png_coco.json").read_text("utf-8"))
    assert [each["area"] for each in coco["annotations"]] == [
        int(region.mask.sum()) for region in foreground.components()
    ]


def test_the_default_is_mask_and_table(segment, tmp_path):
    assert segment("--pipeline", "glioma_unet").exit_code == ExitCode.DONE
    expected = {f"{stem}_{kind}" for stem in STEMS for kind in ("mask.tif", "table.csv")}
    assert files(tmp_path / "out") == expected | {"run.json", "components.csv"}


def test_the_record_tells_what_was_found(segment, foreground, tmp_path):
    arguments = ("--probability-threshold", 0.75, "--white-level", 200)
    segment("--pipeline", "nuclei_unet", *arguments)
    run = record(tmp_path / "out")
    assert run["settings"] == {"probability_threshold": 0.75, "white_level": 200}
    entry = run["files"]["a/x.png"]
    summary = foreground.with_threshold(0.75).summary()
    assert {name: entry[name] for name in summary} == summary
    assert (entry["class"], entry["nuclei"]) == ("nuclei", 2)
    assert entry["job"] == {
        "pipeline": "nuclei_unet",
        **run["settings"],
        "pixel_size_um": None,
    }
    assert entry["probability_threshold"] == 0.75
    assert not {"cells", "score_threshold", "scale"} & set(entry)


@pytest.mark.parametrize(
    ("arguments", "threshold"),
    [
        pytest.param((), 0.35, id="of-the-card"),
        pytest.param(("--probability-threshold", 0.75), 0.75, id="of-the-option"),
    ],
)
def test_the_record_tells_the_threshold(segment, triton, tmp_path, arguments, threshold):
    triton.fake._threshold = 0.35
    segment("--pipeline", "glioma_unet", *arguments)
    entry = record(tmp_path / "out")["files"]["a/x.png"]
    assert entry["probability_threshold"] == threshold


def test_the_white_level_reaches_the_server(segment, triton):
    segment("--pipeline", "nuclei_unet", "--white-level", 200)
    segment("--pipeline", "nuclei_unet")
    levels = [
        float(request.inputs["white_level"][0])
        for request in triton.fake.requests
        if request.model == "nuclei_unet"
    ]
    assert levels == [200.0] * 4 + [255.0] * 4


@pytest.mark.parametrize(
    ("arguments", "done"),
    [
        pytest.param((), 0, id="nothing"),
        pytest.param(("--save", "mask"), 0, id="fewer-outputs"),
        pytest.param(("--save", "mask,summary"), 4, id="another-output"),
        pytest.param(("--probability-threshold", 0.6), 4, id="threshold"),
        pytest.param(("--white-level", 250), 4, id="white-level"),
        pytest.param(("--pixel-size", 0.5), 4, id="pixel-size"),
        pytest.param(("--pipeline", "glioma_unet"), 4, id="pipeline"),
    ],
)
def test_a_rerun_skips_what_is_up_to_date(segment, triton, arguments, done):
    segment("--pipeline", "nuclei_unet")
    triton.asked.clear()
    result = segment("--pipeline", "nuclei_unet", *arguments)
    assert result.exit_code == ExitCode.DONE, result.output
    assert sum(not name.endswith("_card") for name in triton.asked) == done


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(
            ("glioma_unet", "--save", "labels"), "mask, probability, table", id="kind-of-cells"
        ),
        pytest.param(("yolo", "--save", "mask"), "labels, table, parquet", id="kind-of-masks"),
        pytest.param(("nuclei_unet", "--save", "mask,pdf"), "given: 'pdf'", id="no-kind"),
        pytest.param(
            ("glioma_unet", "--max-cells", "4096"), "--max-cells is an option of yolo", id="cap"
        ),
        pytest.param(
            ("nuclei_unet", "--score-threshold", "0.5"), "option of yolo, yolo_resnet", id="score"
        ),
        pytest.param(
            ("nuclei_unet", "--overlap-threshold", "0.5"), "given: --overlap", id="overlap"
        ),
        pytest.param(
            ("yolo", "--probability-threshold", "0.5"), "option of glioma_unet", id="threshold"
        ),
        pytest.param(
            ("glioma_unet", "--white-level", "255"), "option of nuclei_unet", id="white-level"
        ),
        pytest.param(("nuclei_unet", "--white-level", "0"), "above 0", id="white-zero"),
        pytest.param(("nuclei_unet", "--scale", "2"), "--scale is an option of yolo", id="scale"),
        pytest.param(
            ("nuclei_unet", "--cell-diameter", "9"), "--cell-diameter is an option", id="diameter"
        ),
        pytest.param(("nuclei_unet", "--pixel-size", "0"), "given: 0.0", id="no-size"),
        pytest.param(
            ("nuclei_unet", "--numbers"), "--numbers is drawn on the overlay", id="numbers"
        ),
        pytest.param(("nuclei_unet", "--white-level", "nan"), "given: nan", id="white-nan"),
        pytest.param(
            ("glioma_unet", "--probability-threshold", "2"), "from 0 to 1", id="threshold-above"
        ),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(segment, triton, tmp_path, arguments, told):
    result = segment("--pipeline", *arguments)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in " ".join(result.stderr.split())
    assert not triton.asked
    assert not (tmp_path / "out").exists()


def test_help_names_kinds_and_defaults_by_pipeline(command):
    text = " ".join(command("segment", "--help").stdout.split())
    for part in ("by default labels,table", "by default mask,table", "Of nuclei_unet."):
        assert part in text


def test_frames_that_cannot_be_done_fail_alone(segment, images, tmp_path):
    large = np.zeros((2001, 4000), np.uint8)
    assert cv2.imwrite(str(images / "large.png"), large)
    assert cv2.imwrite(str(images / "rgba.png"), np.zeros((5, 5, 4), np.uint8))
    tifffile.imwrite(images / "nan.tif", np.full((5, 5), np.nan, np.float32))
    assert cv2.imwrite(str(images / "line.png"), np.zeros((9, 1), np.uint8))
    result = segment("--pipeline", "glioma_unet")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "5 done, 3 failed" in result.stderr
    entries = record(tmp_path / "out")["files"]
    for name, told in (
        ("large.png", "FrameTooLarge"),
        ("rgba.png", "alpha"),
        ("nan.tif", "25 values NaN"),
    ):
        assert told in entries[name]["error"]
    assert entries["line.png"]["status"] == "done"


def test_a_file_beyond_one_request_is_done_in_windows(segment, triton, tmp_path):
    path = tmp_path / "slide" / "long.png"
    path.parent.mkdir()
    assert cv2.imwrite(str(path), np.zeros((17_000, 20), np.uint8))
    result = segment("--pipeline", "nuclei_unet", "--save", "mask,overlay", paths=(path,))
    assert result.exit_code == ExitCode.DONE, result.output
    assert triton.asked.count("nuclei_unet") == 7
    assert tifffile.imread(tmp_path / "out" / "long_png_mask.tif").shape == (17_000, 20)
    refused = segment("--pipeline", "glioma_unet", paths=(path,))
    assert refused.exit_code == ExitCode.SOME_FAILED
    assert "sides of at most 16384 px" in refused.stderr


def test_a_server_that_dies_stops_the_run_and_loses_nothing(
    segment, triton, tmp_path, monkeypatch, states
):
    monkeypatch.setattr(cytoserve.cli.image_run, "PAUSE_S", 0.05)
    triton.faults = [lambda _: None, lambda _: None, lambda _: triton.server.stop(grace=None)]
    result = segment("--pipeline", "nuclei_unet", "--wait-for-server", 0.5)
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert list(states(tmp_path / "out").values()) == ["done", "done", "not done", "not done"]
    triton.start()
    again = segment("--pipeline", "nuclei_unet")
    assert again.stdout.startswith("2 done, 2 skipped"), again.output
