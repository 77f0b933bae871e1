"""A small rendered data set, and one tiny training of each network made through its command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from click import Command
from click.testing import CliRunner, Result

from training.checkpoint import load_checkpoint
from training.crops import main as crops_command
from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.rendered import RenderSettings, render_dataset
from training.resnet.__main__ import main as resnet_command
from training.run.progress import EpochProgress
from training.yolo.__main__ import main as yolo_command

YOLO_SETTINGS = {
    "epochs": 2,
    "window": 64,
    "samples_per_frame": 4,
    "batch": 64,
    # Mosaics draw from windows seen before, which an interruption forgets.
    "mosaic": 0,
    "optimizer": "AdamW",
    "learning_rate": 0.001,
}

Run = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks as small as these lose more by waiting for a second thread than they gain."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run() -> Run:
    """``run(command, *arguments, code=0)``: in this process; it must end with that exit code."""

    def run(command: Command, *arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(command, [str(a) for a in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rendered frames of six cells, two classes, as a COCO folder."""
    folder = tmp_path_factory.mktemp("rendered")
    settings = RenderSettings(height=120, width=120, cells=6, mean_diameter=24, round_fraction=0.5)
    render_dataset(folder, frames=5, settings=settings, seed=0)
    return folder


@pytest.fixture(scope="session")
def yolo_settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a YOLO training of seconds."""
    file = tmp_path_factory.mktemp("settings") / "yolo.yaml"
    file.write_text(yaml.safe_dump(YOLO_SETTINGS))
    return file


@pytest.fixture(scope="session")
def general(
    tmp_path_factory: pytest.TempPathFactory, rendered: Path, yolo_settings: Path, run: Run
) -> Path:
    """Checkpoint of the one-class network, two epochs."""
    out = tmp_path_factory.mktemp("yolo") / "general"
    run(yolo_command, "general", "--data", rendered, "--out", out, "--settings", yolo_settings)
    return out


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory, rendered: Path, run: Run) -> Path:
    """Crops of the rendered cells."""
    out = tmp_path_factory.mktemp("crops")
    run(crops_command, "--data", rendered, "--out", out)
    return out


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory, crops: Path, run: Run) -> Path:
    """Checkpoint of the classifier, two epochs."""
    out = tmp_path_factory.mktemp("resnet") / "classifier"
    run(resnet_command, "--crops", crops, "--out", out, "--epochs", 2)
    return out


@pytest.fixture
def interrupt_at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Press Ctrl-C in the n-th training step, from 1; 0 never."""
    handler = signal.getsignal(signal.SIGINT)
    steps = 0

    def arm(at: int) -> None:
        nonlocal steps
        steps = 0

        def step(progress: EpochProgress) -> None:
            nonlocal steps
            steps += 1
            if steps == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(EpochProgress, "step", step)

    yield arm
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


@pytest.fixture
def finish_interrupted(run: Run, interrupt_at_step: Callable[[int], None]) -> Callable[..., None]:
    """``check(*command, out=, architecture=, step=)``: interrupts a run of Lightning at that step.

    With `--finish` it must end as the checkpoint of its best epoch so far.
    """

    def check(*command: Any, out: Path, architecture: str, step: int) -> None:
        interrupt_at_step(step)
        assert "--finish" in run(*command, code=1).output
        best = torch.load(out / "resume" / "last.ckpt", weights_only=True)["best"]
        run(*command, "--finish")
        weights, recipe = load_checkpoint(out, architecture)
        assert recipe.metrics == best["metrics"]
        assert best["weights"]
        assert all(torch.equal(weights[name], best["weights"][name]) for name in best["weights"])
        assert not (out / "resume").exists()

    return check


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C works in this process and those that it starts, as a background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., AnnotatedDataset]:
    """Write frames of ``shape`` with the given cells, ``(y, x, height, width)`` each."""

    def make(
        *frames: list[tuple[int, int, int, int]],
        shape: tuple[int, ...] = (100, 100),
        class_names: tuple[str, ...] = ("cell",),
        class_of: Callable[[int], int] = lambda index: 0,
    ) -> AnnotatedDataset:
        made = []
        for number, boxes in enumerate(frames):
            image = np.random.default_rng(number).integers(20, 60, shape).astype(np.uint8)
            cells = []
            for index, (y, x, height, width) in enumerate(boxes):
                image[y : y + height, x : x + width] += 100
                mask = np.ones((height, width), bool)
                cells.append(AnnotatedCell.cut(mask, class_of(index), x=x, y=y))
            path = tmp_path / f"frame_{number}.png"
            assert cv2.imwrite(str(path), image)
            made.append(AnnotatedFrame(path, *shape[:2], tuple(cells)))
        return AnnotatedDataset(class_names, tuple(made))

    return make


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """Real images beside the repository; tests of them are left out where there are none."""
    folder = pytestconfig.rootpath.parent / "shared" / "data"
    if not (folder / "bccd").is_dir():
        pytest.skip(f"{folder}/bccd, the real images, is absent")
    return folder
