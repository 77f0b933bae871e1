"""The command line of a training: data and their split, settings, help."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
import tifffile
from pydantic import BaseModel, ConfigDict, Field

from training import crops
from training.rendered import __main__ as rendered_command
from training.resnet import __main__ as resnet
from training.run.command_line import choose_settings, read_data, read_split
from training.yolo import __main__ as yolo


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(gt=0)
    rate: float = 0.1
    minutes: float | None = None


PRESETS = {"long": Settings(epochs=100), "short": Settings(epochs=2)}


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 7\nrate: 0.5\n")
    assert choose_settings(PRESETS, "short", None) == Settings(epochs=2)
    assert choose_settings(PRESETS, "short", file) == Settings(epochs=7, rate=0.5)
    assert choose_settings(PRESETS, "long", file, epochs=9, rate=None).epochs == 9


def test_epochs_and_minutes_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"given: 3 epochs and 1\.5 minutes\. Give one"):
        choose_settings(PRESETS, "short", None, epochs=3, minutes=1.5)
    file = tmp_path / "settings.yaml"
    file.write_text("minutes: 10\n")
    assert choose_settings(PRESETS, "short", file, epochs=3).minutes is None
    assert choose_settings(PRESETS, "short", file).minutes == 10
    assert choose_settings(PRESETS, "short", None, minutes=1.5).minutes == 1.5


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("# nothing yet\n")
    assert choose_settings(PRESETS, "long", file) == PRESETS["long"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("epoch: 3", r"\n  epoch: Extra inputs.*given: 3$", id="unknown key"),
        pytest.param("epochs: many", r"\n  epochs: .*integer.*given: 'many'$", id="wrong type"),
        pytest.param("epochs: 0", r"\n  epochs: .*greater than 0, given: 0$", id="out of range"),
        pytest.param("epochs: 0\nrate: x", r"\n  epochs: .*\n  rate: ", id="two at once"),
        pytest.param("- epochs", r"lines `name: value`; found \['epochs'\]", id="a list"),
        pytest.param("epochs: [", "cannot be read as YAML", id="no YAML"),
        pytest.param(None, "cannot be read as YAML: .*No such file", id="missing"),
    ],
)
def test_settings_that_are_not_valid_are_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(click.UsageError, match=message) as caught:
        choose_settings(PRESETS, "short", file)
    assert str(file) in caught.value.message
    assert "pydantic.dev" not in caught.value.message


def test_an_option_that_is_not_valid_is_refused() -> None:
    with pytest.raises(click.UsageError, match=r"settings of options are not valid:\n  epochs: "):
        choose_settings(PRESETS, "short", None, epochs=-1)


@pytest.fixture
def label_images(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set of label images: one frame of one square cell."""

    def write(folder: str, frame: str, side: int = 10, pixel_size_um: float | None = None) -> Path:
        for name in ("images", "labels"):
            (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
        labels = np.zeros((60, 60), np.uint8)
        labels[10 : 10 + side, 10 : 10 + side] = 1
        cv2.imwrite(str(tmp_path / folder / "labels" / f"{frame}.png"), labels)
        if pixel_size_um is None:
            cv2.imwrite(str(tmp_path / folder / "images" / f"{frame}.png"), labels * 100)
        else:
            file = tmp_path / folder / "images" / f"{frame}.tif"
            metadata = {"axes": "YX", "PhysicalSizeX": pixel_size_um}
            tifffile.imwrite(file, labels * 100, ome=True, metadata=metadata)
        return tmp_path / folder

    return write


def test_data_sets_are_joined(label_images: Callable[..., Path], rendered: Path) -> None:
    other = label_images("other", "field")
    dataset, hashes = read_data([str(rendered), str(other)], one_class=True)
    assert dataset.class_names == ("cell",)
    assert len(dataset.frames) == 6
    assert list(hashes) == [str(rendered), str(other)]
    assert all(len(value) == 64 for value in hashes.values())


PIXEL_SIZES = {
    "unknown: by the cells": ((None, None), (), None, 0.5),
    "one for all": ((None, None), (0.4,), 0.4, 1.0),
    "one for each": ((None, None), (0.4, 0.8), 0.4, 2.0),
    "of the files": ((0.4, 0.8), (), 0.4, 2.0),
    "given before those of the files": ((0.4, 0.8), (0.5,), 0.5, 1.0),
    "of one file only: by the cells": ((0.4, None), (), 0.4, 0.5),
}


@pytest.mark.parametrize(
    ("in_files", "given", "size", "scale"), PIXEL_SIZES.values(), ids=PIXEL_SIZES
)
def test_data_sets_are_brought_to_one_scale(
    label_images: Callable[..., Path],
    in_files: tuple[float | None, float | None],
    given: tuple[float, ...],
    size: float | None,
    scale: float,
) -> None:
    """The second data set's cell has sides twice as long as the first one's."""
    folders = [
        label_images(f"data_{index}", f"frame_{index}", 10 * (index + 1), in_file)
        for index, in_file in enumerate(in_files)
    ]
    dataset, _ = read_data([str(folder) for folder in folders], True, given)
    assert dataset.pixel_size_um == size
    assert [frame.scale for frame in dataset.frames] == [1.0, pytest.approx(scale)]


def test_data_sets_keep_their_own_pixels_where_asked(label_images: Callable[..., Path]) -> None:
    folders = [str(label_images(f"data_{i}", f"frame_{i}", 10 * (i + 1), 0.4)) for i in range(2)]
    dataset, _ = read_data(folders, True, (0.4, 0.8), own_pixels=True)
    assert [frame.scale for frame in dataset.frames] == [1.0, 1.0]
    assert dataset.pixel_size_um is None  # they have no common one


@pytest.mark.parametrize(
    ("data_sets", "sizes"),
    [
        pytest.param(1, (0.4, 0.8), id="two for one"),
        pytest.param(3, (0.4, 0.8), id="two for three"),
    ],
)
def test_a_wrong_number_of_pixel_sizes_is_refused(
    label_images: Callable[..., Path], data_sets: int, sizes: tuple[float, ...]
) -> None:
    folders = [str(label_images(f"data_{i}", f"frame_{i}")) for i in range(data_sets)]
    with pytest.raises(click.UsageError) as caught:
        read_data(folders, True, sizes)
    assert caught.value.message == (
        "--pixel-size is given once for all data sets, or once for each; given: "
        f"{len(sizes)} for {data_sets} data sets. Give it in the order of --data."
    )


@pytest.mark.parametrize("size", ["0", "-1", "half"])
def test_a_pixel_size_that_is_none_is_refused(
    run: Callable[..., object], tmp_path: Path, size: str
) -> None:
    command = ("general", "--data", tmp_path, "--out", tmp_path, "--pixel-size", size)
    assert "--pixel-size" in str(run(yolo.main, *command, code=2).output)  # type: ignore[attr-defined]


def test_a_listing_takes_some_frames_and_counts_for_the_hash(
    rendered: Path, tmp_path: Path
) -> None:
    listing = tmp_path / "frames.txt"
    argument = f"{rendered}@{listing}"
    listing.write_text("frame_0001\n\n frame_0003 \n")
    dataset, hashes = read_data([argument], one_class=False)
    assert [frame.path.stem for frame in dataset.frames] == ["frame_0001", "frame_0003"]
    listing.write_text("frame_0001\n")
    assert read_data([argument], one_class=False)[1] != hashes


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        pytest.param(
            "frame_0001\nno body\n",
            "--data .*@.*no frame is called 'no body'; give names .* such as 'frame_0000'",
            id="unknown",
        ),
        pytest.param(None, "--data .*@.*No such file", id="missing"),
    ],
)
def test_a_wrong_listing_is_refused(
    rendered: Path, tmp_path: Path, listing: str | None, message: str
) -> None:
    file = tmp_path / "frames.txt"
    if listing is not None:
        file.write_text(listing)
    with pytest.raises(click.UsageError, match=message):
        read_data([f"{rendered}@{file}"], one_class=False)


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"--data .*nowhere: .*no data set"):
        read_data([str(tmp_path / "nowhere")], one_class=False)


def test_data_sets_of_different_classes_are_refused(
    label_images: Callable[..., Path], rendered: Path
) -> None:
    other = label_images("other", "field")
    with pytest.raises(click.UsageError, match=r"rendered.* has spread, round; .*other has cell"):
        read_data([str(rendered), str(other)], one_class=False)


def test_frames_of_one_name_are_refused(label_images: Callable[..., Path]) -> None:
    folders = [label_images("one", "field"), label_images("two", "field")]
    with pytest.raises(click.UsageError, match="2 images are called 'field'"):
        read_data([str(folder) for folder in folders], one_class=True)


def test_a_damaged_annotation_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text(json.dumps({"images": 3}))
    with pytest.raises(click.UsageError, match=r"instances\.json"):
        read_data([str(tmp_path)], one_class=False)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(yolo.main, id="yolo"),
        pytest.param(crops.main, id="crops"),
        pytest.param(resnet.main, id="resnet"),
        pytest.param(rendered_command.main, id="rendered"),
    ],
)
def test_help_tells_the_meaning_of_every_option(
    run: Callable[..., object], command: click.Command
) -> None:
    output = str(run(command, "--help").output)  # type: ignore[attr-defined]
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert len(options) >= 3
    for option in options:
        assert option.help, option.name
        assert option.help[:20] in " ".join(output.split())
    assert command.help


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], str]:
    """Write a data set of two frames of one cell each."""

    def write(name: str) -> str:
        for folder in ("images", "labels"):
            (tmp_path / name / folder).mkdir(parents=True)
        labels = np.zeros((40, 40), np.uint8)
        labels[10:30, 10:30] = 1
        for number in range(2):
            for folder in ("images", "labels"):
                cv2.imwrite(str(tmp_path / name / folder / f"{name}_{number}.png"), labels)
        return str(tmp_path / name)

    return write


SIZES = {
    "none": (1, 1, (), [1, 1], [1, 1]),
    "one for all": (2, 1, (0.5,), [1, 1, 1, 1], [1, 1]),
    "one for each": (2, 1, (0.5, 1.0, 2.0), [1, 1, 2, 2], [4, 4]),
    "one for each to train on": (2, 1, (0.5, 1.0), [1, 1, 2, 2], [1, 1]),
    "similar ones": (1, 1, (0.5, 0.52), [1, 1], [1, 1]),
}


@pytest.mark.parametrize(
    ("trained", "validated", "sizes", "train_scales", "kept_scales"), SIZES.values(), ids=SIZES
)
def test_frames_to_validate_on_are_brought_to_the_scale_of_the_others(
    data: Callable[[str], str],
    trained: int,
    validated: int,
    sizes: tuple[float, ...],
    train_scales: list[float],
    kept_scales: list[float],
) -> None:
    train, kept, hashes = read_split(
        [data(f"train_{i}") for i in range(trained)],
        [data(f"kept_{i}") for i in range(validated)],
        share=0.5,
        seed=0,
        pixel_sizes=sizes,
    )
    assert [frame.scale for frame in train.frames] == train_scales
    assert [frame.scale for frame in kept.frames] == kept_scales
    assert len(hashes) == trained + validated


def test_a_share_is_drawn_where_there_is_nothing_else_to_validate_on(
    data: Callable[[str], str],
) -> None:
    train, kept, _ = read_split([data("all")], [], share=0.5, seed=0, pixel_sizes=(0.5,))
    assert (len(train.frames), len(kept.frames)) == (1, 1)
    assert (train.pixel_size_um, kept.pixel_size_um) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("trained", "validated", "sizes"),
    [
        pytest.param(1, 0, (0.5, 1.0), id="too many, nothing to validate on"),
        pytest.param(3, 0, (0.5, 1.0), id="too few"),
        pytest.param(1, 2, (0.5, 1.0, 1.0, 1.0), id="too many to validate on"),
    ],
)
def test_a_wrong_number_of_pixel_sizes_for_a_split_is_refused(
    data: Callable[[str], str], trained: int, validated: int, sizes: tuple[float, ...]
) -> None:
    folders = [data(f"data_{i}") for i in range(trained + validated)]
    with pytest.raises(click.UsageError, match="--pixel-size is given once for all data sets"):
        read_split(folders[:trained], folders[trained:], share=0.5, seed=0, pixel_sizes=sizes)
