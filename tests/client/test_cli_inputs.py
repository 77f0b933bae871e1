"""``cytoserve segment``: which images are meant, and how their results are called."""

from __future__ import annotations

import pytest

from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.inputs import Input, NoImageFound, find_inputs


def test_a_folder_without_images(tmp_path, triton, command):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "empty" / "*.png"):
        result = command("segment", path, "--out", tmp_path / "out", "--url", triton.url)
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


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        pytest.param("*.png", ["x.png"], id="here"),
        pytest.param("**/*.png", ["a/x.png", "x.png"], id="deep"),
        pytest.param("../exp1/*.png", ["y.png"], id="beside"),
    ],
)
def test_a_working_folder_with_brackets_is_no_glob(
    tmp_path, monkeypatch, write_image, pattern, keys
):
    for name in ("exp[1]/x.png", "exp[1]/a/x.png", "exp1/y.png"):
        write_image(tmp_path / name)
    monkeypatch.chdir(tmp_path / "exp[1]")
    assert [given.key for given in find_inputs([pattern], tmp_path / "out")] == keys


@pytest.mark.parametrize("pattern", ["nothing*.png", "*.txt", "none/**"])
def test_a_glob_without_an_image_is_told(images, monkeypatch, pattern):
    monkeypatch.chdir(images)
    with pytest.raises(NoImageFound) as refusal:
        find_inputs([pattern, "x.png"], images / "out")
    assert f"given: {pattern!r}." in refusal.value.message


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


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(images, write_image):
    odd = write_image(images / "field[1].png")
    assert [given.key for given in find_inputs([str(odd)], images / "out")] == ["field[1].png"]
