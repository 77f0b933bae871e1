"""Names and places of images that trouble programs: each ends in a stated outcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.inputs import MAX_NAME_BYTES, Input, file_key, find_inputs
from cytoserve.positions import Place


def keys(folder, out):
    return [given.key for given in find_inputs([str(folder)], out)]


def test_names_that_are_no_text_are_done_and_recorded(segment, tmp_path, write_image):
    folder = tmp_path / "named"
    write_image(folder / "a.png")
    for name in (b"Zell\xe9.png", b"\xcf\xb8\xb0\xfb.png"):  # Latin-1 and GBK
        (folder / "a.png").read_bytes()
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write((folder / "a.png").read_bytes())
    for words in ("3 done", "3 skipped"):
        result = segment("--save", "labels,table,coco,overlay", paths=(folder,))
        assert result.exit_code == ExitCode.DONE, result.output
        assert result.stdout.startswith(words)
    record = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert os.fsdecode(b"Zell\xe9.png") in record["files"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8"])
def test_output_in_any_code_page(triton, tmp_path, write_image, encoding):
    folder, out = tmp_path / "Zelle µ 細胞", tmp_path / "結果"
    write_image(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    odd = os.path.join(os.fsencode(folder), b"Zell\xe9.png")  # noqa: PTH118
    (folder / "a.png").rename(os.fsdecode(odd))
    done = subprocess.run(
        [sys.executable, "-m", "cytoserve", "segment", folder, "--out", out, "--url", triton.url],
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == ExitCode.SOME_FAILED, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"1 done, 1 failed" in done.stderr


@pytest.mark.parametrize(
    "stem",
    [
        pytest.param("x" * 205, id="205"),
        pytest.param("x" * 215, id="215"),
        pytest.param("x" * 235, id="235"),
        pytest.param("x" * 251, id="255 bytes"),
        pytest.param("細" * 68, id="68 letters of 3 bytes"),
        pytest.param("細" * 83, id="83 letters of 3 bytes"),
    ],
)
def test_names_that_barely_fit_are_done(segment, tmp_path, write_image, stem):
    folder = tmp_path / "long"
    for last in "ab":  # which differ in their last letter only
        write_image(folder / "x.png")
        (folder / "x.png").rename(folder / f"{stem[:-1]}{last}.png")
    for words in ("2 done", "2 skipped"):
        result = segment(paths=(folder,))
        assert result.exit_code == ExitCode.DONE, result.output
        assert result.stdout.startswith(words)
    files = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["files"]
    written = [name for entry in files.values() for name in entry["outputs"]]
    assert len(set(written)) == len(written)
    for name in written:
        assert (tmp_path / "out" / name).is_file()
        assert len(os.fsencode(name)) <= MAX_NAME_BYTES


def test_linked_folders_are_searched_once(tmp_path, write_image):
    write_image(tmp_path / "plates" / "one" / "a.png")
    write_image(tmp_path / "plates" / "two" / "b.png")
    write_image(tmp_path / "folder" / "c.png")
    for name in ("one", "two"):
        (tmp_path / "folder" / name).symlink_to(tmp_path / "plates" / name)
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "plates" / "two")
    (tmp_path / "plates" / "two" / "back").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "itself").symlink_to(tmp_path / "folder")
    found = keys(tmp_path / "folder", tmp_path / "out")
    assert len(found) == 3
    assert {key.rpartition("/")[2] for key in found} == {"a.png", "b.png", "c.png"}


def test_a_link_to_the_results_is_not_searched(tmp_path, write_image):
    write_image(tmp_path / "folder" / "c.png")
    write_image(tmp_path / "out" / "c_overlay.png")
    (tmp_path / "folder" / "results").symlink_to(tmp_path / "out")
    assert keys(tmp_path / "folder", tmp_path / "out") == ["c.png"]


def test_folders_of_drives_and_systems_are_passed_over(tmp_path, write_image):
    write_image(tmp_path / "a.png")
    for folder in ("@eaDir/a.png", "__MACOSX", "#recycle", "$RECYCLE.BIN", "x/@eaDir", ".snapshot"):
        write_image(tmp_path / folder / "SYNOFILE_THUMB_M.png")
    assert keys(tmp_path, tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_watch_finds_the_same_images(command, triton, tmp_path, write_image, states, links):
    write_image(tmp_path / "plates" / "a.png")
    write_image(tmp_path / "folder" / "c.png")
    write_image(tmp_path / "folder" / "@eaDir" / "c.png")
    (tmp_path / "folder" / "x.zarr").mkdir()
    if links:
        (tmp_path / "folder" / "p").symlink_to(tmp_path / "plates")
        (tmp_path / "plates" / "back").symlink_to(tmp_path / "folder")
    arguments = ("--url", triton.url, "--settle", 0, "--poll", 0.01, "--until-idle", 0)
    result = command("watch", tmp_path / "folder", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == ExitCode.DONE, result.output
    assert set(states(tmp_path / "out")) == ({"c.png", "p/a.png"} if links else {"c.png"})
    assert "not watched" in result.stderr


@pytest.mark.parametrize(
    ("key", "file"),
    [("a.tif#t003_z02", "a.tif"), ("a#b.tif", "a#b.tif"), ("d/a#1.tif#zmax_c0", "d/a#1.tif")],
)
def test_the_file_of_a_key(key, file):
    assert file_key(key) == file


def test_results_of_a_plane_have_its_place_in_their_names(tmp_path):
    given = Input(tmp_path / "a.tif", "d/a.tif").plane("t003_z02", Place(0, 3, 2, 0))
    assert given.key == "d/a.tif#t003_z02"
    assert given.name == "a.tif#t003_z02"
    assert given.output("labels.tif") == "d/a_tif_t003_z02_labels.tif"
