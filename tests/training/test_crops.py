"""Crops of annotated cells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cytoserve.contract import CROP_SIZE
from training.crops import cut_crops, main, read_index
from training.datasets.annotated import AnnotatedDataset
from training.datasets.readers import read_annotated
from training.datasets.scale import measure_scale
from training.preprocessing.cutting import CellCrops
from training.preprocessing.normalise import PercentileLevels

CELL = (10, 10, 20, 20)

Run = Callable[..., Any]
MakeDataset = Callable[..., AnnotatedDataset]


def test_every_cell_is_cut_once_and_no_frame_stands_on_both_sides(
    crops: Path, rendered: Path
) -> None:
    index = read_index(crops)
    dataset = read_annotated(rendered)
    assert index.class_names == ("spread", "round")
    assert len(index.train) + len(index.validation) == 5 * 6
    sides = [
        {Path(crop.file).stem.rsplit("_", 1)[0] for crop in side}
        for side in (index.train, index.validation)
    ]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {frame.path.stem for frame in dataset.frames}
    for crop in index.train + index.validation:
        assert cv2.imread(str(crops / crop.file)).shape == (CROP_SIZE, CROP_SIZE, 3)


def test_a_crop_is_the_rectangle_of_the_polygon(crops: Path, rendered: Path) -> None:
    index = read_index(crops)
    frames = {frame.path.stem: frame for frame in read_annotated(rendered).frames}
    for crop in index.train[:8]:
        stem, number = Path(crop.file).stem.rsplit("_", 1)
        frame, cell = frames[stem], frames[stem].cells[int(number)]
        image = torch.from_numpy(frame.read().astype(np.int32))[:, :, None]
        polygon = cell.polygon()
        box = [*polygon.min(axis=0).tolist(), *polygon.max(axis=0).tolist()]
        expected = CellCrops()(image, PercentileLevels()(image), torch.tensor([box]))[0]
        pixels = cv2.imread(str(crops / crop.file))[:, :, ::-1]
        assert np.array_equal(pixels, expected.permute(1, 2, 0).numpy())
        assert box == pytest.approx(cell.box)
        assert crop.class_id == cell.class_id


def test_the_index_holds_the_scale_of_the_frames(crops: Path, rendered: Path) -> None:
    assert read_index(crops).scale == measure_scale(read_annotated(rendered))


def test_a_pixel_size_may_be_given(run: Run, rendered: Path, tmp_path: Path) -> None:
    run(main, "--data", rendered, "--out", tmp_path / "crops", "--pixel-size", 0.25)
    scale = read_index(tmp_path / "crops").scale
    assert scale is not None
    assert scale.pixel_size_um == 0.25


def test_an_index_of_an_earlier_version_has_no_scale(damaged: Path) -> None:
    index = json.loads((damaged / "crops.json").read_text())
    del index["scale"]
    (damaged / "crops.json").write_text(json.dumps(index))
    assert read_index(damaged).scale is None


def test_colours_keep_their_order(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([CELL], [CELL], shape=(64, 64, 3))
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :, 2] = 200  # OpenCV writes BGR: this is red
    for frame in dataset.frames:
        cv2.imwrite(str(frame.path), image)
    index = cut_crops(dataset, {}, tmp_path / "crops", 0.5, seed=0)
    blue, _, red = cv2.imread(str(tmp_path / "crops" / index.train[0].file))[24, 24]
    assert (blue, red) == (0, 255)


def test_a_frame_without_cells_gives_no_crops(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([CELL], [], [CELL], [])
    for seed in range(20):  # until a cell is drawn for either side
        try:
            index = cut_crops(dataset, {}, tmp_path / "crops", 0.5, seed)
            break
        except ValueError:
            continue
    assert (len(index.train), len(index.validation)) == (1, 1)


def test_crops_of_an_earlier_run_go_away_and_files_of_others_stay(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    out = tmp_path / "crops"
    (out / "train").mkdir(parents=True)
    (out / "train" / "mine.png").write_text("no crop of ours")
    cut_crops(make_dataset([CELL, CELL], [CELL, CELL]), {}, out, 0.5, seed=0)
    assert (out / "train" / "mine.png").is_file()
    cut_crops(make_dataset([CELL], [CELL]), {}, out, 0.5, seed=0)
    assert len(list(out.rglob("*.png"))) == 2


@pytest.fixture
def damaged(crops: Path, tmp_path: Path) -> Path:
    """A copy of the crops, to be damaged."""
    return Path(shutil.copytree(crops, tmp_path / "crops"))


def unknown_class(file: Path) -> None:
    index = json.loads(file.read_text())
    index["train"][0]["class_id"] = 2
    file.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, r"crops\.json is absent.*training\.crops", id="absent"),
        pytest.param(lambda f: f.write_text("{"), "damaged.*\n  contents: Invalid JSON", id="JSON"),
        pytest.param(
            lambda f: f.write_text('{"data": {}, "train": [], "validation": []}'),
            "damaged.*\n  class_names: Field required",
            id="field",
        ),
        pytest.param(unknown_class, "is of class 2, which has no name", id="class"),
        pytest.param(lambda f: f.write_bytes(b"\xff\x00"), "damaged", id="no text"),
    ],
)
def test_a_damaged_index_is_refused(
    damaged: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(damaged / "crops.json")
    with pytest.raises(ValueError, match=message):
        read_index(damaged)


def test_what_cannot_be_cut_is_a_message(run: Run, rendered: Path, tmp_path: Path) -> None:
    listing = tmp_path / "one.txt"
    listing.write_text("frame_0000")
    output = run(
        main, "--data", f"{rendered}@{listing}", "--out", tmp_path / "crops", code=1
    ).output
    assert "two frames or more; got 1" in output
    assert not (tmp_path / "crops").exists()


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "many"])
def test_a_share_that_is_none_is_refused(
    run: Run, rendered: Path, tmp_path: Path, share: str
) -> None:
    command = (main, "--data", rendered, "--out", tmp_path, "--validation-share", share)
    assert "--validation-share" in run(*command, code=2).output


def test_real_frames(shared_data: Path, tmp_path: Path) -> None:
    dataset = read_annotated(shared_data / "bccd")
    part = dataset.subset([frame.path.stem for frame in dataset.frames[:4]])
    index = cut_crops(part, {}, tmp_path, 0.25, seed=0)
    assert index.class_names == dataset.class_names
    assert len(index.train) + len(index.validation) == sum(len(f.cells) for f in part.frames)
