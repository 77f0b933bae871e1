"""A run ends with its warnings, once per kind, and with one line of figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cytoserve import Foreground, LearnedScale
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.run_record import DONE, FAILED, NOT_DONE, SKIPPED
from cytoserve.cli.run_summary import result_line, run_warnings
from cytoserve.contract import PIPELINES

RAISE = "8 cells found, the best 7 kept. Raise --max-cells."
TELL = "The cells measure 60 px. Give --cell-diameter."


def cells(rbc, wbc=0, status=DONE, seconds=0.5, threshold=0.3, **warnings):
    return {
        "status": status,
        "job": {"pipeline": "yolo"},
        "cells": rbc + wbc,
        "classes": {"RBC": rbc, "WBC": wbc},
        "score_threshold": threshold,
        "warnings": warnings,
        "seconds": {"read": 0.0, "segment": seconds, "save": 0.0},
    }


def covered(confluency, nuclei=None, pipeline="glioma_unet", status=DONE):
    return {
        "status": status,
        "job": {"pipeline": pipeline},
        "class": "cell",
        "confluency": confluency,
        "nuclei": nuclei,
        "probability_threshold": 0.5,
        "seconds": {"read": 0.0, "segment": 0.1, "save": 0.1},
    }


FAILURE = {"status": FAILED, "error": "UnreadableImage: no"}
LEFT = {"status": NOT_DONE, "error": "The server stopped."}


def keyed(entries):
    return {f"{number}.png": entry for number, entry in enumerate(entries)}


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        pytest.param([], "", id="no-image"),
        pytest.param([FAILURE, LEFT], "", id="no-result"),
        pytest.param(
            [cells(600, 4), cells(500, 100, seconds=0.125)],
            "2 images, 1,204 cells (RBC 1,100, WBC 104), 3.2 images per second",
            id="two-classes",
        ),
        pytest.param(
            [cells(1, 0, seconds=20)], "1 image, 1 cell (RBC 1, WBC 0), 20.0 s an image", id="one"
        ),
        pytest.param(
            [{**cells(3), "classes": {"cell": 3}}],
            "1 image, 3 cells, 2.0 images per second",
            id="one-class",
        ),
        pytest.param([cells(0)], "1 image, 0 cells, 2.0 images per second", id="no-cell"),
        pytest.param(
            [cells(2, capped=RAISE, scale=TELL), cells(2), cells(2, scale=TELL)],
            "3 images, 6 cells (RBC 6, WBC 0), 2.0 images per second, 2 with warnings",
            id="warnings",
        ),
        pytest.param(
            [cells(2), cells(3, status=SKIPPED, seconds=90), FAILURE, LEFT],
            "2 images, 5 cells (RBC 5, WBC 0), 2.0 images per second",
            id="skipped-images-have-cells-and-no-speed",
        ),
        pytest.param(
            [cells(3, status=SKIPPED)], "1 image, 3 cells (RBC 3, WBC 0)", id="all-skipped"
        ),
        pytest.param(
            [covered(12.04), covered(60.06)],
            "2 images, mean confluency 36.0 % (12.0 to 60.1), 5.0 images per second",
            id="foreground",
        ),
        pytest.param(
            [covered(0.0, 0, "nuclei_unet"), covered(50.0, 1204, "nuclei_unet")],
            "2 images, mean confluency 25.0 % (0.0 to 50.0), 1,204 nuclei, 5.0 images per second",
            id="nuclei",
        ),
        pytest.param(
            [covered(12.0)], "1 image, mean confluency 12.0 %, 5.0 images per second", id="one-map"
        ),
    ],
)
def test_the_last_line(entries, line):
    assert result_line(keyed(entries)) == line


@pytest.mark.parametrize(
    ("entries", "lines"),
    [
        pytest.param([], [], id="no-image"),
        pytest.param([FAILURE, LEFT], [], id="no-result"),
        pytest.param([cells(3), cells(0)], [], id="cells-in-one"),
        pytest.param(
            [cells(2), cells(2, scale=TELL), cells(2, capped=RAISE, scale=TELL)],
            [
                f"warning, 2 of 3 images: 1.png: {TELL}",
                f"warning, 1 of 3 images: 2.png: {RAISE}",
            ],
            id="once-per-kind",
        ),
        pytest.param(
            [cells(2, capped=RAISE, status=SKIPPED), FAILURE],
            [f"warning, 1 of 1 image: 0.png: {RAISE}"],
            id="of-an-earlier-run",
        ),
        pytest.param([{**cells(2, status=SKIPPED), "warnings": {}}], [], id="none"),
        pytest.param([covered(0.0), covered(30.0)], [], id="foreground-in-one"),
        pytest.param([covered(100.0), covered(30.0)], [], id="background-in-one"),
        pytest.param([covered(0.0), covered(100.0)], [], id="nothing-and-everything"),
        pytest.param([covered(0.06)], [], id="hardly-any"),
    ],
)
def test_warnings(entries, lines):
    assert run_warnings(keyed(entries)) == lines


def test_entries_of_earlier_versions_have_no_warnings():
    old = cells(2, status=SKIPPED)
    del old["warnings"]
    assert run_warnings(keyed([old])) == []
    assert result_line(keyed([old])) == "1 image, 2 cells (RBC 2, WBC 0)"


@pytest.mark.parametrize(
    ("entries", "parts"),
    [
        pytest.param(
            [cells(0), FAILURE],
            ["No cell was found in the image, at score threshold 0.3.", "Lower --score-threshold"],
            id="one",
        ),
        pytest.param(
            [cells(0, threshold=0.123456)] * 3,
            ["No cell was found in any of 3 images, at score threshold 0.123", "(--cell-diameter)"],
            id="no-cell",
        ),
        pytest.param(
            [covered(0.0), covered(0.04)],
            [
                "Nothing is foreground in any of 2 images, at probability threshold 0.5.",
                "Lower --probability-threshold; if",
            ],
            id="nothing",
        ),
        pytest.param(
            [covered(100.0), covered(99.96)],
            ["Everything is foreground in all 2 images", "Raise --probability-threshold; if"],
            id="everything",
        ),
        pytest.param(
            [covered(0.0, 0, "nuclei_unet")], ["or tell the value of white (--white-level)"], id="w"
        ),
    ],
)
def test_the_same_in_all_images_is_a_warning(entries, parts):
    (line,) = run_warnings(keyed(entries))
    assert line.startswith("warning: ")
    for part in parts:
        assert part in line


def last_line(text):
    return text.splitlines()[-1]


def told(result):
    return [line for line in result.stderr.splitlines() if line.startswith("warning")]


def test_an_ordinary_run_has_no_warning(segment, tmp_path):
    result = segment()
    assert not result.stderr
    assert last_line(result.stdout).startswith("4 images, 12 cells (RBC 8, WBC 4), ")
    assert "warning" not in result.stdout
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["warnings"] == []
    assert all(entry["warnings"] == {} for entry in record["files"].values())


def test_a_warning_is_printed_once_and_recorded_for_every_image(segment, tmp_path):
    result = segment("--max-cells", 2)
    assert result.exit_code == ExitCode.DONE
    (warning,) = told(result)
    assert warning.startswith("warning, 4 of 4 images: a/x.png: 3 cells found, the best 2 kept.")
    assert last_line(result.stdout).endswith(", 4 with warnings")
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert record["warnings"] == [warning]
    for entry in record["files"].values():
        assert "Raise --max-cells" in entry["warnings"]["capped"]
    again = segment("--max-cells", 2)  # skips all
    assert told(again) == [warning]
    assert last_line(again.stdout) == "4 images, 8 cells (RBC 4, WBC 4), 4 with warnings"


def test_a_run_without_a_cell_says_so(segment, tmp_path):
    result = segment("--score-threshold", 1)
    assert result.exit_code == ExitCode.DONE
    (warning,) = told(result)
    assert "No cell was found in any of 4 images, at score threshold 1 (best score" in warning
    assert "in the first 3: 0.9). Lower --score-threshold" in warning
    (again,) = told(segment("--score-threshold", 1))  # skips all, so nothing is asked
    assert "best score" not in again
    assert last_line(result.stdout).startswith("4 images, 0 cells, ")


def test_failed_images_stand_beside_the_figures(segment, images):
    (images / "bad.png").write_bytes(b"")
    result = segment()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert last_line(result.stderr).startswith("4 images, 12 cells")
    assert not result.stdout


def test_words_of_the_command_line_name_its_options(segment, triton):
    triton.fake._scale = LearnedScale(1.0, 200.0, 400.0)
    few = told(segment())
    assert not few  # three cells say little
    found = triton.fake._find
    triton.fake._find = lambda frame, origin: found(frame, origin)[np.zeros(6, int)]
    (warning,) = told(segment("--score-threshold", 0.2))
    assert "(--cell-diameter)" in warning
    assert "cell_diameter_px" not in warning


@pytest.mark.parametrize("pipeline", [n for n, each in PIPELINES.items() if each.is_semantic])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param(0, "Nothing is foreground in any of 4 images", id="nothing"),
        pytest.param(255, "Everything is foreground in all 4 images", id="everything"),
        pytest.param(None, None, id="ordinary"),
    ],
)
def test_foreground(segment, triton, pipeline, value, said):
    if value is not None:
        triton.fake._find_foreground = lambda frame, origin: Foreground.from_probability(
            np.full(frame.shape[:2], value, np.uint8),
            centres=np.zeros((0, 2), np.float32),
            centre_scores=np.zeros(0, np.float32),
        )
    result = segment("--pipeline", pipeline)
    assert result.exit_code == ExitCode.DONE, result.output
    assert last_line(result.stdout).startswith("4 images, mean confluency ")
    assert (" nuclei, " in last_line(result.stdout)) == (pipeline == "nuclei_unet")
    warnings = told(result)
    assert len(warnings) == (said is not None)
    assert not warnings or said in warnings[0]
