"""Study S2's protocol on rendered frames: real trainings of a tiny U-Net."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from benchmarks.glioma import runs as glioma_runs
from benchmarks.glioma.protocol import main
from benchmarks.glioma.result import Average, ModelRow, ScoresTable, scores_table
from benchmarks.glioma.runs import Protocol, average
from benchmarks.published import S2_TABLES, GliomaModel
from training.datasets.readers import read_annotated
from training.preprocessing.normalise import PrepareWholeFrame
from training.rendered import RenderSettings, render_dataset
from training.unet.dice import resize_bilinear, resize_image
from training.unet.frames import foreground_mask
from training.unet.network import ENCODERS, load_unet
from training.unet.settings import UnetSettings

MODEL = "u-net-random-resize-64x48"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    settings = RenderSettings(height=96, width=128, cells=4, mean_diameter=30)
    render_dataset(folder, frames=5, settings=settings, seed=1)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    file = tmp_path_factory.mktemp("settings") / "settings.yaml"
    file.write_text(yaml.safe_dump({"width": 4, "batch": 2, "learning_rate": 0.01}))
    return file


@pytest.fixture(scope="module")
def command(data, settings, tmp_path_factory):
    """``command(*options, code=0)``: the protocol, on two splits 2/1/2, into one folder."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("out")
    common = {
        "--data": data,
        "--settings": settings,
        "--epochs": 1,
        "--splits": 2,
        "--sizes": "2/1/2",
        "--out": out,
    }

    def run(*options, code=0, **changed):
        given = {**common, **{f"--{name}": value for name, value in changed.items()}}
        words = [str(word) for pair in given.items() for word in pair]
        done = CliRunner().invoke(main, [*words, *map(str, options)])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    run.out = out
    return run


ROW = ("--encoder", "U-Net", "--resolution", "64x48")
TESTS = ("--test", "own,native", "--test", "704p,1472p", "--scale", "0.1")


@pytest.fixture(scope="module")
def first(command):
    """Result of the first run."""
    command(*ROW, *TESTS)
    return json.loads((command.out / "result.json").read_text())


def test_the_figures_are_those_of_the_checkpoints(first, command, data):
    [row] = first["tables"][0]["rows"]
    frames = {frame.path.stem: frame for frame in read_annotated(data).frames}
    means = []
    for number in range(2):
        folder = command.out / MODEL / f"split-{number:02}"
        unet, _ = load_unet(folder)
        kept = json.loads((folder / "result.json").read_text())["dice"]["64x48,native"]
        assert len(kept) == 2
        for name, dice in kept.items():
            image = frames[name].read().astype(np.int32)
            with torch.inference_mode():
                pixels = PrepareWholeFrame()(torch.from_numpy(image[:, :, None]))
                probability = torch.sigmoid(unet(resize_image(pixels, (48, 64))))
                large = resize_bilinear(probability, (96, 128))
            found, truth = large[0, 0].numpy() >= 0.5, foreground_mask(frames[name])
            both = np.count_nonzero(found & truth)
            assert dice == pytest.approx(2 * both / (found.sum() + truth.sum()))
        means.append(statistics.mean(kept.values()))
    score = row["scores"][0]
    assert score["splits"] == pytest.approx(means)
    assert score["mean"] == pytest.approx(statistics.mean(means))
    assert score["spread"] == pytest.approx(statistics.stdev(means))


def test_the_page_shows_them(first, command):
    page = (command.out / "result.md").read_text()
    one, two = (
        f"{score['mean']:.3f} ± {score['spread']:.3f}"
        for score in first["tables"][0]["rows"][0]["scores"]
    )
    assert f"| U-Net | random | resize 64x48 | {one} | - | {two} | - |" in page
    assert "704p = 70x51 px" in page
    assert "K = 2 random splits 2/1/2 of 5 frames" in page


@pytest.mark.parametrize(
    ("model", "settings", "scale", "expected"),
    [
        pytest.param({}, {}, 1, "1472p", id="resized"),
        pytest.param({}, {}, 0.5, "736x560", id="resized, scaled"),
        pytest.param({"mode": "crop"}, {}, 1, "native", id="crops: at the frames' own scale"),
        pytest.param({}, {"window_scale": 0.5}, 1, "2944x2240", id="resized windows"),
    ],
)
def test_a_model_s_own_resolution_shows_cells_as_large_as_in_training(
    model, settings, scale, expected
):
    protocol = Protocol(None, {}, None, UnetSettings(**settings), scale, {}, None)
    model = GliomaModel("VGG19", "random", **{"mode": "resize", "resolution": "1472p", **model})
    assert protocol.tested_at(model, ("own", "native")) == (expected, "native")
    other = protocol.resolution("2592p")
    assert protocol.tested_at(model, ("2592p", "2592p")) == (other, other)


def test_what_is_finished_is_not_done_again(first, command, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("trained or tested again")

    monkeypatch.setattr(glioma_runs, "train_unet", refuse)
    monkeypatch.setattr(glioma_runs, "dice_of_frames", refuse)
    command(*ROW, *TESTS)
    again = json.loads((command.out / "result.json").read_text())
    assert again["tables"] == first["tables"]


def test_a_training_whose_test_is_missing_is_tested_only(first, command, monkeypatch):
    monkeypatch.setattr(glioma_runs, "train_unet", None)
    command(*ROW, "--test", "native,native", "--scale", "0.1")
    [row] = json.loads((command.out / "result.json").read_text())["tables"][0]["rows"]
    assert row["scores"][0]["mean"] != first["tables"][0]["rows"][0]["scores"][0]["mean"]


def test_the_whole_model_starts_from_a_pretraining(first, command, data, tmp_path):
    checkpoint = command.out / MODEL / "split-00"
    options = (*ROW, "--init", "livecell", "--init", "elsewhere")
    given = ("--pretrained", f"livecell={checkpoint}")
    command(*options, *given, splits=1, out=tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    rows = {row["init"]: row for row in result["tables"][0]["rows"]}
    assert rows["livecell"]["scores"][0] is not None
    assert rows["elsewhere"]["scores"] == [None]
    page = (tmp_path / "result.md").read_text()
    assert "| U-Net | elsewhere | resize 64x48 | - | - |" in page
    assert "for want of initial weights" in page
    recipe = tmp_path / "u-net-livecell-resize-64x48/split-00/recipe.json"
    assert json.loads(recipe.read_text())["initialised_from"] == str(checkpoint)
    other = command.out / MODEL / "split-01"
    output = command(*options, "--pretrained", f"livecell={other}", splits=1, out=tmp_path, code=1)
    assert "began with other weights" in output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param([], 2, "there is nothing to do", id="nothing"),
        pytest.param([*ROW, "--sizes", "2/3"], 2, "training/validation/test", id="two sizes"),
        pytest.param([*ROW, "--sizes", "2/0/2"], 2, "none for validation", id="an empty part"),
        pytest.param([*ROW, "--test", "704p"], 2, "predicted at R1", id="half a test"),
        pytest.param([*ROW, "--test", "own,big"], 2, "a resolution is", id="no resolution"),
        pytest.param([*ROW, "--pretrained", "runs"], 2, "takes NAME=DIR", id="no name"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(command, options, code, message):
    assert message in " ".join(command(*options, code=code).split())


def test_splits_that_cannot_be_drawn_are_refused(command, tmp_path):
    assert "data set has 5" in command(*ROW, code=1, out=tmp_path, sizes="15/5/10")


def test_other_settings_in_the_same_folder_are_refused(first, command):
    assert "holds results of another protocol" in command(*ROW, *TESTS, code=1, epochs=2)


def test_average_is_over_images_and_splits():
    figures = average([[0.5, 0.7], [0.9, 0.9]])
    assert figures.mean == pytest.approx(0.75)
    assert figures.splits == pytest.approx((0.6, 0.9))
    assert figures.spread == pytest.approx(statistics.stdev([0.6, 0.9]))


@pytest.mark.parametrize("number", S2_TABLES)
def test_the_study_s_tables_are_whole(number):
    """Every row can be trained, and the study's figures stand beside ours."""
    table = S2_TABLES[number]
    rows = []
    for model, figures in table.figures.items():
        assert model.encoder in ENCODERS
        assert set(model.augmentation) <= set(glioma_runs.AUGMENTATIONS)
        assert len(figures) == len(table.tests)
        rows.append(
            ModelRow(
                network=model.network,
                init=model.init,
                training=model.training,
                scores=(Average(0.5, 0.01, ()),) * len(figures),
                study=figures,
            )
        )
    tests = tuple(", ".join(test) for test in table.tests)
    text = scores_table(ScoresTable(title=table.title, tests=tests, rows=tuple(rows)))
    lines = [line for line in text.splitlines() if line.startswith("| U-Net-")]
    assert len(lines) == len(table.figures)
    for line, (model, figures) in zip(lines, table.figures.items(), strict=True):
        ours = " ".join(f"0.500 ± 0.010 | {figure} |" for figure in figures)
        assert line == f"| U-Net-{model.encoder} | {model.init} | {model.training} | {ours}"
