"""One table for all images of a run: what is in it, and what happens when it cannot be written."""

from __future__ import annotations

import csv
import json
import tracemalloc
from importlib import util
from pathlib import Path

import cv2
import numpy as np
import polars
import pytest
import tifffile
from pyarrow import parquet

import cytoserve.outputs.extras
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.outputs import CELLS_OUTPUTS, encode_output
from cytoserve.outputs.extras import MODULES
from cytoserve.outputs.run_tables import join_tables
from cytoserve.outputs.source import Source


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_has_one_table(segment, tmp_path):
    result = segment("--save", "table,parquet")
    assert result.exit_code == ExitCode.DONE, result.output
    out = tmp_path / "out"
    joined = rows(out / "cells.csv")
    keys = ("a/x.png", "b/c/y.jpg", "x.png", "x.tif")
    assert [row["image"] for row in joined] == [key for key in keys for _ in range(3)]
    one = rows(out / "a" / "x_png_table.csv")
    assert joined[:3] == one
    found = polars.read_parquet(out / "cells.parquet")
    assert found["image"].to_list() == [row["image"] for row in joined]
    assert found["label"].to_list() == [1, 2, 3] * 4
    assert found["area"].to_list() == [float(row["area"]) for row in joined]


def test_the_pixel_size_of_the_input_is_not_lost(segment, images, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8)
    tifffile.imwrite(
        images / "x.tif",
        pixels,
        imagej=True,
        resolution=(1 / 0.325, 1 / 0.325),
        metadata={"unit": "um"},
    )
    result = segment("--save", "labels,table,parquet,geojson,coco")
    assert result.exit_code == ExitCode.DONE, result.output
    out = tmp_path / "out"
    joined = rows(out / "cells.csv")
    assert [row["pixel_size_um"] for row in joined] == [""] * 9 + ["0.325"] * 3
    assert float(joined[-1]["area_um2"]) == pytest.approx(float(joined[-1]["area"]) * 0.325**2)
    found = polars.read_parquet(out / "cells.parquet")
    assert found["pixel_size_um"].to_list() == [None] * 9 + [pytest.approx(0.325)] * 3
    with tifffile.TiffFile(out / "x_tif_labels.tif") as tiff:
        assert 'PhysicalSizeX="0.325' in tiff.ome_metadata
    coco = json.loads((out / "x_tif_coco.json").read_text("utf-8"))
    assert coco["images"][0]["pixel_size_um"] == pytest.approx(0.325)
    features = json.loads((out / "x_tif_cells.geojson").read_text("utf-8"))["features"]
    assert features[0]["properties"]["metadata"]["pixel_size_um"].startswith("0.325")
    assert "area_um2" in features[0]["properties"]["measurements"]


def test_the_pixel_size_of_the_option(segment, tmp_path):
    result = segment("--pipeline", "glioma_unet", "--save", "table,summary", "--pixel-size", 2)
    assert result.exit_code == ExitCode.DONE, result.output
    joined = rows(tmp_path / "out" / "components.csv")
    assert all(float(row["area_um2"]) == 4 * float(row["area"]) for row in joined)
    summaries = rows(tmp_path / "out" / "summary.csv")
    assert [row["image"] for row in summaries] == ["a/x.png", "b/c/y.jpg", "x.png", "x.tif"]
    assert {row["pixel_size_um"] for row in summaries} == {"2"}


def test_grey_and_colour_images_share_a_table(segment, images, tmp_path):
    assert cv2.imwrite(str(images / "x.png"), np.full((60, 80, 3), (1, 2, 3), np.uint8))
    result = segment("--save", "table,parquet")
    assert result.exit_code == ExitCode.DONE, result.output
    out = tmp_path / "out"
    joined = rows(out / "cells.csv")
    assert [row["intensity_mean"] == "" for row in joined] == [False] * 6 + [True] * 3 + [False] * 3
    assert [row["intensity_mean-0"] for row in joined][6:9] == ["3"] * 3  # red comes first
    found = polars.read_parquet(out / "cells.parquet")
    assert found.columns == list(joined[0])
    assert found["intensity_mean"].null_count() == 3


def test_a_rerun_keeps_the_rows_of_what_was_done(segment, images, tmp_path, write_image):
    segment()
    write_image(images / "z.png", 9)
    (images / "x.png").write_bytes(b"broken")
    assert segment().exit_code == ExitCode.SOME_FAILED
    named = {row["image"] for row in rows(tmp_path / "out" / "cells.csv")}
    assert named == {"a/x.png", "b/c/y.jpg", "x.tif", "z.png"}


def test_images_without_cells_leave_a_header(segment, tmp_path):
    result = segment("--save", "table,parquet", "--score-threshold", 1)
    assert result.exit_code == ExitCode.DONE, result.output
    text = (tmp_path / "out" / "cells.csv").read_text("utf-8")
    assert text.startswith("image,label,class,")
    assert text.count("\n") == 1
    assert polars.read_parquet(tmp_path / "out" / "cells.parquet").height == 0


def test_names_that_csv_escapes(segment, images, tmp_path, write_image):
    name = 'b "1", ö\n漢.png'
    write_image(images / "plain.png", 5).rename(images / name)
    result = segment("--save", "table,parquet,geojson,rois,labels")
    assert result.exit_code == ExitCode.DONE, result.output
    out = tmp_path / "out"
    assert name in {row["image"] for row in rows(out / "cells.csv")}
    assert name in set(polars.read_parquet(out / "cells.parquet")["image"])


@pytest.mark.parametrize("kind", ["table", "parquet"])
def test_a_table_that_is_open_elsewhere_is_told(segment, tmp_path, kind, monkeypatch):
    """Excel on Windows lets nobody replace a file that it shows."""
    name = str(CELLS_OUTPUTS[kind].run_file)
    replace = Path.replace

    def locked(part, target):
        if target.name == name:
            raise PermissionError(13, "Permission denied", str(target))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", locked)
    result = segment("--save", kind)
    assert result.exit_code == ExitCode.SOME_FAILED
    words = " ".join(result.stderr.split())
    assert f"could not be joined to {tmp_path / 'out' / name}" in words
    assert "Close it in other programs" in words
    monkeypatch.undo()
    assert segment("--save", kind).exit_code == ExitCode.DONE
    assert (tmp_path / "out" / name).is_file()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_part_that_is_no_table_is_told(segment, tmp_path):
    segment("--save", "parquet")
    (tmp_path / "out" / "x_png_table.parquet").write_bytes(b"edited")
    result = segment("--save", "parquet")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "could not be joined" in result.stderr


def test_many_small_parquet_tables_become_few_row_groups(tmp_path):
    parts = [tmp_path / f"{number}_table.parquet" for number in range(300)]
    for number, path in enumerate(parts):
        polars.DataFrame({"image": [str(number)] * 400, "label": range(400)}).write_parquet(path)
    join_tables(parts, tmp_path / "cells.parquet")
    found = polars.read_parquet(tmp_path / "cells.parquet")
    assert found["image"].to_list() == [str(number) for number in range(300) for _ in range(400)]
    assert parquet.ParquetFile(tmp_path / "cells.parquet").num_row_groups == 3


def test_memory_of_a_join_is_that_of_one_image(tmp_path):
    parts = []
    for number in range(40):
        parts.append(tmp_path / f"{number}_table.csv")
        line = f"{number}.png,{'1' * 200}\r\n"
        parts[-1].write_text("image,a\r\n" + line * 2000, newline="")
    tracemalloc.start()
    join_tables(parts, tmp_path / "cells.csv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < sum(path.stat().st_size for path in parts) / 8
    assert len(rows(tmp_path / "cells.csv")) == 80_000


@pytest.mark.parametrize(("module", "extra"), MODULES.items())
def test_a_missing_package_is_named_with_its_command(module, extra, cells, monkeypatch):
    monkeypatch.setattr(
        cytoserve.outputs.extras,
        "find_spec",
        lambda name: None if name == module else util.find_spec(name),
    )
    frame = np.zeros((60, 80), np.uint8)
    uses = {
        "pyarrow": lambda: encode_output("parquet", frame, cells, Source()),
        "zarr": lambda: encode_output("zarr", frame, cells, Source()),
        "roifile": cells.to_rois,
        "pandas": cells.to_dataframe,
    }
    with pytest.raises(ImportError, match=rf"package {module}.*pip install '\.\[{extra}\]'"):
        uses[module]()


def test_a_missing_package_is_told_before_anything_runs(segment, triton, tmp_path, monkeypatch):
    monkeypatch.setattr(cytoserve.outputs.extras, "find_spec", lambda name: None)
    result = segment("--save", "labels,rois")
    assert result.exit_code == ExitCode.USAGE
    assert "pip install '.[rois]'" in " ".join(result.stderr.split())
    assert not triton.asked
    assert not (tmp_path / "out").exists()


def test_extras_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from 3.11 on")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for module, extra in MODULES.items():
        (package,) = project["optional-dependencies"][extra]
        assert package.startswith(module)


def test_help_lists_every_kind(command):
    text = " ".join(command("segment", "--help").stdout.split())
    for kind, output in CELLS_OUTPUTS.items():
        assert f"{kind} ({output.summary})" in text
