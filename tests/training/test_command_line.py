"""What is given on a command line: data, settings, help."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from training import crops, resnet, yolo
from training.command_line import choose_settings, read_data
from training.rendered import __main__ as rendered_command


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(gt=0)
    rate: float = 0.1


PRESETS = {"long": Settings(epochs=100), "short": Settings(epochs=2)}


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 7\nrate: 0.5\n")
    assert choose_settings(PRESETS, "short", None) == Settings(epochs=2)
    assert choose_settings(PRESETS, "short", file) == Settings(epochs=7, rate=0.5)
    assert choose_settings(PRESETS, "long", file, epochs=9, rate=None).epochs == 9


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
def label_images(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a data set of label images: one frame of one cell."""

    def write(folder: str, frame: str) -> Path:
        for name in ("images", "labels"):
            (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
        labels = np.zeros((40, 40), np.uint8)
        labels[10:20, 10:20] = 1
        cv2.imwrite(str(tmp_path / folder / "labels" / f"{frame}.png"), labels)
        cv2.imwrite(str(tmp_path / folder / "images" / f"{frame}.png"), labels * 100)
        return tmp_path / folder

    return write


def test_data_sets_are_joined(label_images: Callable[[str, str], Path], rendered: Path) -> None:
    other = label_images("other", "field")
    dataset, hashes = read_data([str(rendered), str(other)], one_class=True)
    assert dataset.class_names == ("cell",)
    assert len(dataset.frames) == 6
    assert list(hashes) == [str(rendered), str(other)]
    assert all(len(value) == 64 for value in hashes.values())


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
    label_images: Callable[[str, str], Path], rendered: Path
) -> None:
    other = label_images("other", "field")
    with pytest.raises(click.UsageError, match=r"rendered.* has spread, round; .*other has cell"):
        read_data([str(rendered), str(other)], one_class=False)


def test_frames_of_one_name_are_refused(label_images: Callable[[str, str], Path]) -> None:
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
