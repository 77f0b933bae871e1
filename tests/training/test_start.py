"""The way from own images to an own model: what it says, chooses, runs and refuses."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cytoserve import read_frame
from cytoserve.cli.segment import segment as segment_command
from server.embedded import EmbeddedServer
from training.checkpoint import LearnedScale, Recipe, save_checkpoint
from training.datasets.readers import read_annotated
from training.run.stages import RECORD, RESUME, Stages
from training.start import PRESETS, choose_window, describe, main
from training.yolo.settings import ARCHITECTURE

ROOT = Path(__file__).parents[2]
PRESET_WINDOW, TILE_WINDOW = PRESETS["fine-tune-demo"].window, PRESETS["fine-tune"].window


def write_frame(folder: Path, name: str, radii: list[int], side: int = 256, value: int = 1) -> None:
    """A grey frame of discs, with its label image."""
    labels = np.zeros((side, side), np.uint16)
    for index, radius in enumerate(radii, start=value):
        place = (side * (index % 4) // 4 + side // 8, side * (index // 4 % 4) // 4 + side // 8)
        cv2.circle(labels, place, radius, (index,), -1)
    for kind, image in (("images", 60 + 100 * (labels > 0)), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        pixels = image.astype(np.uint8 if kind == "images" else np.uint16)
        cv2.imwrite(str(folder / kind / f"{name}.png"), pixels)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Eight frames of cells and one without."""
    for number in range(8):
        write_frame(tmp_path / "mine", f"f{number}", [9, 10, 11])
    write_frame(tmp_path / "mine", "empty", [])
    return tmp_path / "mine"


def write_checkpoint(folder: Path, architecture: str, scale: LearnedScale | None = None) -> None:
    folder.mkdir()
    recipe = Recipe(
        architecture=architecture,
        class_names=("cell",),
        settings={},
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
        versions={},
        created="2026-01-01T00:00:00+00:00",
        scale=scale,
    )
    save_checkpoint(folder, {}, recipe)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the stages, none of which is run."""
    lines: list[list[str]] = []

    def announce(stages: Stages, title: str, *words: str | Path, resume: bool = False) -> None:
        lines.append([*map(str, words), *([RESUME] if resume else [])])

    monkeypatch.setattr(Stages, "run", announce)
    return lines


def start(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_it_says_what_it_found_and_draws_it(mine, commands, tmp_path):
    code, said = start("--data", mine, "--out", tmp_path / "out", "--init", "random")
    assert code == 0, said
    assert "9 images of 256 x 256 px; the first is uint8 grey" in said
    assert "24 cells (24 cell); images without a cell: 1" in said
    assert "in diameter, median 20 px" in said
    assert "warning" not in said
    drawn = sorted((tmp_path / "out" / "previews").iterdir())
    assert len(drawn) == 6
    preview = read_frame(drawn[0])[:1024]  # four times as large; the legend is below
    coloured = np.ptp(preview.astype(int), axis=2) > 60
    assert coloured[:256].any()
    assert not coloured[256:].any()  # where no cell is annotated


def test_every_stage_is_a_command_with_these_options(mine, commands, tmp_path):
    out = tmp_path / "my run"
    words = ("--data", mine, "--out", out, "--init", "random", "--minutes", "2.5")
    (out / "yolo").mkdir(parents=True)
    (out / RECORD).write_text("[]")
    code, said = start(*words, "--pixel-size", "0.5", "--seed", "3", RESUME)
    assert code == 0, said
    training = commands[0]
    assert training[training.index("--minutes") + 1] == "2.5"
    assert training[training.index("--pixel-size") + 1] == "0.5"
    for python, m, module, *options in commands:
        assert (python, m) == ("python", "-m")
        command = importlib.import_module(f"{module}.__main__").main
        if isinstance(command, click.Group):
            command = command.commands[options.pop(0)]
        with command.make_context(module, options):  # refuses what the command does not know
            pass
    serve, segment = (shlex.split(line) for line in said.splitlines() if line.startswith("  "))
    assert serve == ["python", "-m", "server", "--model-repository", f"{out / 'model_repository'}"]
    assert segment[:3] == ["cytoserve", "segment", f"{mine / 'images'}"]
    with segment_command.make_context("segment", segment[2:]):
        pass


def test_a_run_that_was_cut_off_goes_on(mine, commands, tmp_path):
    out = tmp_path / "out"
    words = ("--data", mine, "--out", out, "--init", "random")
    start(*words)
    code, said = start(*words)
    assert code == 2
    assert f"--out {out} holds files already" in said
    assert "add --resume" in said
    code, said = start(*words[:2], "--out", tmp_path / "another", RESUME)
    assert code == 2
    assert "holds no run to go on with; omit --resume" in said
    assert start(*words, RESUME)[0] == 0
    assert commands[0] == commands[2]  # no whole epoch was saved, so training begins anew
    state = out / "yolo" / "resume" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.touch()
    assert start(*words, RESUME)[0] == 0
    assert commands[4] == [*commands[0], RESUME]
    assert (out / RECORD).is_file()


def test_other_data_than_a_network_was_trained_on_are_refused(mine, commands, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / RECORD).write_text("[]")
    write_checkpoint(out / "yolo", ARCHITECTURE)  # its recipe names no data
    code, said = start("--data", mine, "--out", out, "--init", "random", RESUME)
    assert code == 1
    assert "was trained on other images or annotations" in said
    assert not commands


@pytest.mark.parametrize(
    ("radius", "window"),
    [
        pytest.param(10, PRESET_WINDOW, id="small-cells"),
        pytest.param(100, TILE_WINDOW, id="large-cells"),
    ],
)
def test_windows_hold_whole_cells(tmp_path, radius, window):
    for number in range(3):
        write_frame(tmp_path, f"f{number}", [radius], side=800)
    assert choose_window(read_annotated(tmp_path), "random", seed=0) == window


def test_windows_are_chosen_at_the_scale_of_the_network(tmp_path):
    """A network that knows cells of 20 px sees cells of 200 px a tenth as large."""
    for number in range(3):
        write_frame(tmp_path / "data", f"f{number}", [100], side=800)
    scale = LearnedScale(
        network_scale=1.0, cell_diameter_px=20, largest_cell_px=30, cell_diameters_px=(10, 30)
    )
    write_checkpoint(tmp_path / "network", ARCHITECTURE, scale)
    dataset = read_annotated(tmp_path / "data")
    assert choose_window(dataset, str(tmp_path / "network"), seed=0) == PRESET_WINDOW


def test_a_class_of_few_cells_is_named(mine):
    classes = {f"f{number}": dict.fromkeys("123", "common") for number in range(8)}
    classes["f0"] |= {"1": "rare", "2": "rare"}
    table = {"class_names": ["rare", "common"], "classes": classes}
    (mine / "classes.json").write_text(json.dumps(table))
    told = list(describe(read_annotated(mine)))
    assert "24 cells (2 rare, 22 common)" in told[1]
    assert [line for line in told if line.startswith("warning")] == told[-1:]
    assert "class 'rare' has 2 cells" in told[-1]
    assert "Annotate more" in told[-1]


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        pytest.param(lambda folder: folder.mkdir(), "holds no data set that is known", id="empty"),
        pytest.param(
            lambda folder: write_frame(folder, "only", [10, 10]),
            "takes two frames or more; got 1",
            id="one-image",
        ),
        pytest.param(
            lambda folder: [write_frame(folder, name, []) for name in "ab"],
            "none of the 2 frames has a cell",
            id="no-cell",
        ),
        pytest.param(
            lambda folder: [
                write_frame(folder, "a", [10]),
                (folder / "labels" / "a.png").rename(folder / "labels" / "b.png"),
            ],
            "b.png",
            id="annotations-without-image",
        ),
        pytest.param(
            lambda folder: [
                write_frame(folder, "a", [10]),
                [file.unlink() for file in (folder / "labels").iterdir()],
            ],
            "holds no data set that is known (images, labels)",
            id="images-without-annotations",
        ),
        pytest.param(
            lambda folder: [
                [write_frame(folder, name, [10]) for name in "ab"],
                (folder / "images" / "a.png").write_bytes(b"no image"),
            ],
            "a.png",
            id="damaged-image",
        ),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path, commands, prepare, told):
    folder = tmp_path / "data"
    prepare(folder)
    code, said = start("--data", folder, "--out", tmp_path / "out", "--init", "random")
    assert code in (1, 2)
    assert told in said
    assert not commands
    assert not (tmp_path / "out").exists()  # so the same command can be given again


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        pytest.param(None, "recipe.json is absent", id="no-checkpoint"),
        pytest.param("resnet50", "here yolo11n-seg is needed", id="of-another-network"),
    ],
)
def test_a_wrong_checkpoint_is_refused_before_training(
    mine, commands, tmp_path, architecture, told
):
    network = tmp_path / "network"
    if architecture:
        write_checkpoint(network, architecture)
    code, said = start("--data", mine, "--out", tmp_path / "out", "--init", network)
    assert code == 1
    assert told in said
    assert not commands


@pytest.mark.slow
def test_from_images_to_a_served_model(rendered, tmp_path, interruptible):
    """The real commands, cut off once in the middle of training."""
    out = tmp_path / "mine"
    command = [sys.executable, "-m", "training.start", "--data", rendered, "--minutes", "0.5"]
    command += ["--init", "random", "--out", out]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'client'}:{ROOT}"}

    def begin(*more: str) -> subprocess.Popen[str]:
        words = [*map(str, command), *more]
        kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True, **kept)

    with begin() as cut_off:
        state = out / "yolo" / "resume" / "state.safetensors"
        until = time.monotonic() + 300
        while not state.is_file() and time.monotonic() < until:
            time.sleep(0.2)
        os.killpg(cut_off.pid, signal.SIGINT)  # as Ctrl-C does
        said = cut_off.stdout.read()
    assert cut_off.returncode == 1, said
    assert "keeps the last whole epoch" in said  # by the training
    assert "interrupted. Go on with" in said
    assert RESUME in said.splitlines()[-1]
    with begin(RESUME) as resumed:
        said = resumed.stdout.read()
    assert resumed.returncode == 0, said
    assert "of them done" in said
    [segment] = [line for line in said.splitlines() if line.startswith("  cytoserve segment")]
    with EmbeddedServer(out / "model_repository") as server:
        words = [*shlex.split(segment), "--url", server.url]
        program = Path(sys.executable).with_name(words[0])
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((out / "cells").glob("*_overlay.png"))) == 5
