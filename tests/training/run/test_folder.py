"""The folder of one run: begun, resumed, finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from training.checkpoint import CheckpointError
from training.run.folder import RunFolder

FACTS: dict[str, Any] = {"seed": 0, "class_names": ("a", "b"), "settings": {"epochs": 3}}


@pytest.fixture
def interrupted(tmp_path: Path) -> RunFolder:
    """A run with one whole epoch."""
    folder = RunFolder(tmp_path / "out", "state.bin")
    folder.begin(FACTS, resume=False)
    folder.log.mkdir()
    (folder.log / "events").write_text("epoch 1")
    folder.state.write_text("epoch 1")
    return folder


def test_the_same_run_can_be_resumed(interrupted: RunFolder) -> None:
    interrupted.begin(FACTS, resume=True)
    assert interrupted.state.read_text() == "epoch 1"
    assert (interrupted.log / "events").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"seed": 1}, "seed: begun with 0, now 1", id="seed"),
        pytest.param({"settings": {"epochs": 4}}, "settings: .*'epochs': 3.*'epochs': 4", id="4"),
        pytest.param({"class_names": ("a",)}, "class_names: begun with", id="classes"),
    ],
)
def test_another_run_is_not_taken_for_it(
    interrupted: RunFolder, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        interrupted.begin(FACTS | change, resume=True)
    assert interrupted.state.is_file()


def test_a_new_run_forgets_the_old_one(interrupted: RunFolder) -> None:
    interrupted.begin(FACTS, resume=False)
    assert not interrupted.state.exists()
    assert not interrupted.log.exists()


def test_a_finished_run_cannot_be_resumed(interrupted: RunFolder) -> None:
    interrupted.finish()
    with pytest.raises(CheckpointError, match="no interrupted run to resume"):
        interrupted.begin(FACTS, resume=True)


def test_an_interruption_names_the_way_to_go_on(interrupted: RunFolder) -> None:
    with (
        pytest.raises(click.ClickException, match="same command and --resume"),
        interrupted.reported(),
    ):
        raise KeyboardInterrupt
    interrupted.state.unlink()
    with pytest.raises(click.ClickException, match="nothing to resume"), interrupted.reported():
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [ValueError, CheckpointError, OSError])
def test_errors_of_data_and_disk_are_messages(
    interrupted: RunFolder, error: type[Exception]
) -> None:
    with pytest.raises(click.ClickException, match="the disk is full"), interrupted.reported():
        raise error("the disk is full")
