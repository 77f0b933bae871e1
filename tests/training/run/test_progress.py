"""A run tells its data and its device, and a line a minute off a terminal."""

from __future__ import annotations

import pytest
import torch

from training.datasets.annotated import AnnotatedDataset
from training.run.progress import EpochProgress, describe_data, describe_device, describe_frames


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def follow(seconds: list[float], epochs_done: int = 0) -> None:
    """A run of 3 epochs of 4 steps, one step after each of ``seconds``."""
    clock = Clock()
    with EpochProgress(3, clock=clock) as progress:
        progress.begin(4, epochs_done, "a device")
        for passed in seconds:
            clock.now += passed
            progress.step()


@pytest.mark.parametrize(
    ("seconds", "epochs_done", "lines"),
    [
        pytest.param([10] * 5, 0, [], id="a minute has not passed"),
        pytest.param([20] * 6, 0, ["epoch 1/3, step 3/4, 0:03:00", "epoch 2/3, step 2/4, 0:02:00"]),
        pytest.param([90], 0, ["epoch 1/3, step 1/4, -:--:--"], id="no speed after one step"),
        pytest.param([30] * 2, 2, ["epoch 3/3, step 2/4, 0:01:00"], id="a resumed run"),
    ],
)
def test_off_a_terminal_a_line_a_minute_is_printed(
    seconds: list[float], epochs_done: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    follow(seconds, epochs_done)
    begun, *said = capsys.readouterr().err.splitlines()
    done = f", {epochs_done} of them done" if epochs_done else ""
    assert begun == f"a device; 3 epochs of 4 steps{done}"
    assert said == [f"{line} left" for line in lines]


def test_a_run_of_minutes_tells_the_minutes_that_are_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with EpochProgress(50, minutes=5, clock=clock) as progress:
        progress.begin(4, 2, "a device", seconds_done=60)
        for _ in range(5):
            clock.now += 40
            progress.step()
        progress.epoch(3, {"loss": 0.5})
    assert capsys.readouterr().err.splitlines() == [
        "a device; 5 minutes in epochs of 4 steps, 0:01:00 of them done",
        "epoch 3, step 2/4, 0:02:40 left",
        "epoch 3, step 4/4, 0:01:20 left",
        "epoch 3  loss 0.5",
    ]


def test_on_a_terminal_the_bar_stays_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    follow([90] * 6)
    printed = capsys.readouterr().err
    assert "a device; 3 epochs" in printed
    assert "left" not in printed


def test_a_long_line_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {f"figure number {index}": 0.5 for index in range(10)}
    EpochProgress(3).epoch(1, figures)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_data_are_named_by_class(make_dataset) -> None:
    boxes = [(10, 10, 20, 20), (50, 50, 20, 20), (50, 10, 20, 20)]
    two = make_dataset(
        boxes, boxes[:1], class_names=("spread", "round"), class_of=lambda index: index % 2
    )
    parts: list[AnnotatedDataset] = [two.subset({f"frame_{index}"}) for index in range(2)]
    assert describe_frames(*parts) == (
        "trained on 1 frames (2 spread, 1 round), validated on 1 frames (1 spread, 0 round)"
    )
    assert describe_data("tiles", (49, {}), (9, {})) == "trained on 49 tiles, validated on 9 tiles"


@pytest.mark.parametrize(("bf16", "precision"), [(False, "float32"), (True, "bfloat16 mixed")])
def test_the_device_is_named(bf16: bool, precision: str) -> None:
    said = describe_device(torch.device("cpu"), bf16=bf16)
    assert said.startswith(f"CPU, {torch.get_num_threads()} threads, {precision}")
