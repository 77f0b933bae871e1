"""The folder of one run: begun, resumed, finished."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from training.checkpoint import CheckpointError, ChosenThreshold, load_checkpoint, new_recipe
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


CURVE = {"thresholds": (0.2, 0.4), "precision": (0.5, 1.0), "recall": (1.0, 0.5)}
CHOSEN = ChosenThreshold(value=0.4, metric="F1", best=(0.6, 0.8125), **CURVE)


@pytest.mark.parametrize(
    ("threshold", "lines"),
    [
        pytest.param(None, ["a, b; accuracy 0.75, loss 12.35"], id="no threshold"),
        pytest.param(
            CHOSEN,
            ["a, b; accuracy 0.75, loss 12.35", "score threshold 0.4, F1 0.812 in validation"],
            id="score",
        ),
        pytest.param(
            CHOSEN.model_copy(update={"metric": "Dice"}),
            ["a, b; accuracy 0.75, loss 12.35", "probability threshold 0.4, Dice 0.812 in"],
            id="probability",
        ),
    ],
)
def test_a_finished_run_is_a_checkpoint_and_is_reported(
    interrupted: RunFolder,
    threshold: ChosenThreshold | None,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = {**FACTS, "architecture": "resnet50", "class_names": ("a", "b"), "data": {}}
    facts = {**facts, "initialised_from": "random", "seed": 0}
    recipe = new_recipe(**facts, metrics={"accuracy": 0.75, "loss": 12.345}, threshold=threshold)
    interrupted.finish({"weight": torch.ones(2)}, recipe)
    weights, read = load_checkpoint(interrupted.out, "resnet50")
    assert weights["weight"].tolist() == [1, 1]
    assert read == recipe
    assert (interrupted.out / "threshold.png").is_file() == (threshold is not None)
    interrupted.report(recipe)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(lines)
    assert all(line in found for line, found in zip(lines, printed, strict=True))
    with pytest.raises(CheckpointError, match="no interrupted run to resume"):
        interrupted.begin(FACTS, resume=True)


F1 = CHOSEN.model_copy(update={"best": (0.02, 0.05)})
DICE = F1.model_copy(update={"metric": "Dice"})


@pytest.mark.parametrize(
    ("metrics", "threshold", "classes", "warning"),
    [
        pytest.param({}, F1, 1, "the best F1 in validation is 0.050", id="F1 near 0"),
        pytest.param({}, DICE, 1, "the best Dice in validation is 0.050", id="Dice near 0"),
        pytest.param({}, CHOSEN, 1, None, id="a good F1"),
        pytest.param({}, None, 1, None, id="no threshold was chosen"),
        pytest.param({"balanced_accuracy": 0.5}, None, 2, "guessing one of 2", id="chance"),
        pytest.param({"balanced_accuracy": 1 / 3}, None, 3, "reaches 0.333", id="chance of three"),
        pytest.param({"balanced_accuracy": 0.5}, None, 3, None, id="above the chance of three"),
        pytest.param({"balanced_accuracy": 1.0}, None, 1, None, id="one class alone"),
        pytest.param({"box_iou": 0.04}, None, 1, "for true boxes is 0.040", id="SAM"),
        pytest.param({"box_iou": 0.6}, None, 1, None, id="a good SAM"),
    ],
)
def test_a_run_that_learned_nothing_ends_with_a_warning(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    metrics: dict[str, float],
    threshold: ChosenThreshold | None,
    classes: int,
    warning: str | None,
) -> None:
    recipe = new_recipe(
        architecture="resnet50",
        class_names=("a", "b", "c")[:classes],
        settings={},
        data={},
        initialised_from="random",
        seed=0,
        metrics=metrics,
        threshold=threshold,
    )
    RunFolder(tmp_path, "state.bin").report(recipe)
    printed = capsys.readouterr().err
    assert printed.startswith("warning: ") == bool(printed) == (warning is not None)
    assert (warning or "") in printed
    assert ("--epochs" in printed and "--init" in printed) == (warning is not None)


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


@pytest.mark.parametrize(
    ("epoch", "remedy"),
    [
        pytest.param(True, "go on with --resume", id="later"),
        pytest.param(False, "start again", id="at-once"),
    ],
)
def test_a_full_disk_is_named_with_its_remedy(
    interrupted: RunFolder, epoch: bool, remedy: str
) -> None:
    if not epoch:
        interrupted.state.unlink()
    full = OSError(errno.ENOSPC, "No space left on device")  # as a write raises it: without a name
    told = f"the disk of {re.escape(str(interrupted.out))} is full.*Free some space, then {remedy}"
    with pytest.raises(click.ClickException, match=told), interrupted.reported():
        raise full
