"""Sequences of the Cell Tracking Challenge: read, and refused with file and reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from training.datasets.annotated import AnnotatedCell, AnnotationError
from training.datasets.readers import read_annotated

HEIGHT, WIDTH = 20, 30


def write_image(folder: Path, sequence: str = "01", frame: str = "t000") -> Path:
    file = folder / sequence / f"{frame}.tif"
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, np.full((HEIGHT, WIDTH), 700, np.uint16))
    return file


def write_truth(
    folder: Path, name: str = "man_seg000", truth: str = "01_GT", label: int = 7, width: int = 5
) -> Path:
    """One cell of 4 rows and ``width`` columns at (x 3, y 2); none where the label is 0."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[2:6, 3 : 3 + width] = label
    file = folder / truth / "SEG" / f"{name}.tif"
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, labels)
    return file


def cell(width: int) -> AnnotatedCell:
    return AnnotatedCell(3, 2, np.ones((4, width), bool), 0)


def test_gold_goes_before_silver_and_the_rest_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for frame in range(5):
        write_image(tmp_path, "01", f"t{frame:03d}")
    write_image(tmp_path, "02", "t0001")
    write_image(tmp_path, "03", "t000")
    write_truth(tmp_path, "man_seg000", "01_GT", width=5)
    write_truth(tmp_path, "man_seg000", "01_ST", width=6)
    write_truth(tmp_path, "man_seg002", "01_ST", width=7)
    write_truth(tmp_path, "man_seg003", "01_GT", label=0)
    write_truth(tmp_path, "man_seg0001", "02_ST", width=8)
    (tmp_path / "01_GT" / "TRA").mkdir()
    with caplog.at_level(logging.WARNING):
        dataset = read_annotated(tmp_path)
    assert dataset.class_names == ("cell",)
    assert {frame.name: frame.cells for frame in dataset.frames} == {
        "01_t000": (cell(5),),
        "01_t002": (cell(7),),
        "01_t003": (),
        "02_t0001": (cell(8),),
    }
    assert {(frame.height, frame.width) for frame in dataset.frames} == {(HEIGHT, WIDTH)}
    assert dataset.frames[-1].read().max() == 700
    assert "3 frames have no segmentation truth and are left out, 4 have one" in caplog.text


def test_frames_of_several_sequences_are_told_apart(tmp_path: Path) -> None:
    for sequence in ("01", "02"):
        write_image(tmp_path, sequence)
        write_truth(tmp_path, truth=f"{sequence}_GT")
    chosen = read_annotated(tmp_path).subset({"02_t000"})
    assert [frame.path for frame in chosen.frames] == [tmp_path / "02" / "t000.tif"]


def test_nothing_is_said_where_every_frame_has_truth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path)
    write_truth(tmp_path)
    assert len(read_annotated(tmp_path).frames) == 1
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def stack(folder: Path) -> None:
    tifffile.imwrite(folder / "01" / "t000.tif", np.zeros((5, HEIGHT, WIDTH), np.uint16))


def other_size(folder: Path) -> None:
    tifffile.imwrite(folder / "01_GT/SEG/man_seg000.tif", np.ones((HEIGHT, 9), np.uint16))


def of_floats(folder: Path) -> None:
    tifffile.imwrite(folder / "01_GT/SEG/man_seg000.tif", np.ones((HEIGHT, WIDTH), np.float32))


def damaged(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda folder: write_truth(folder, "man_seg_000_001"),
            r"man_seg_000_001\.tif: is the truth of one slice .* has 2D in it",
            id="slice of a stack",
        ),
        pytest.param(stack, r"t000\.tif: is a stack of 5 slices; only plane", id="stack"),
        pytest.param(
            lambda folder: write_truth(folder, "man_seg001"),
            r"man_seg001\.tif: has no frame t001\.tif in .*01; add the image",
            id="truth without frame",
        ),
        pytest.param(
            lambda folder: write_truth(folder, "mask000"),
            r"mask000\.tif: is not named man_segNNN\.tif",
            id="name of a truth",
        ),
        pytest.param(
            lambda folder: write_image(folder, frame="frame1"),
            r"frame1\.tif: is not named tNNN\.tif",
            id="name of a frame",
        ),
        pytest.param(
            lambda folder: write_image(folder, frame="T000"),
            r"is of the same frame as T000\.tif; remove one",
            id="frame twice",
        ),
        pytest.param(
            other_size, r"man_seg000\.tif: has 9 x 20 pixels, its image 30 x 20", id="size"
        ),
        pytest.param(of_floats, r"man_seg000\.tif: is float32 .* save integers", id="floats"),
        pytest.param(
            damaged("01_GT/SEG/man_seg000.tif", b"no TIFF"),
            r"man_seg000\.tif: cannot be read as an image",
            id="damaged truth",
        ),
        pytest.param(
            damaged("01/t000.tif", b"II*\0 and nothing more"),
            r"t000\.tif: cannot be read as an image",
            id="damaged frame",
        ),
        pytest.param(
            lambda folder: (folder / "01_GT/SEG/man_seg000.tif").unlink(),
            r"none of 1 frames has a man_segNNN\.tif in GT or ST",
            id="no truth at all",
        ),
    ],
)
def test_what_is_malformed_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    write_image(tmp_path)
    write_truth(tmp_path)
    spoil(tmp_path)
    with pytest.raises(AnnotationError, match=message):
        read_annotated(tmp_path)
