"""Study S3's protocol on images drawn here: real trainings of a tiny U-Net."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from benchmarks.harness.results import RESULT_FILE
from benchmarks.nuclei import runs as nuclei_runs
from benchmarks.nuclei.protocol import main
from benchmarks.nuclei.result import NucleiProtocolResult, SetRun, TileScores, protocol_page
from benchmarks.published import S3
from training.nuclei_tiles import SETS
from training.unet.network import load_unet
from training.unet.settings import NUCLEI_NETWORKS

SIDE = 160


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three cases of one image, dark discs on bright tissue in its upper half."""
    folder = tmp_path_factory.mktemp("brecahad")
    for name in ("images", "groundTruth"):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    for case in (1, 2, 3):
        image = random.integers(190, 230, (SIDE, SIDE, 3)).astype(np.uint8)
        points = random.uniform((20, 20), (SIDE - 20, SIDE // 2 - 25), (6, 2))
        for x, y in points:
            cv2.circle(image, (int(x), int(y)), 9, (120, 60, 110), cv2.FILLED)
        assert cv2.imwrite(str(folder / f"images/Case_{case}-01.jpg"), image)
        classes = ("mitosis", "apoptosis", "tumor", "non_tumor", "tubule", "non_tubule")
        annotation = {name: [] for name in classes}
        annotation["tumor"] = [{"x": x / SIDE, "y": y / SIDE} for x, y in points.tolist()]
        (folder / f"groundTruth/Case_{case}-01.json").write_text(json.dumps(annotation))
    return folder


@pytest.fixture(scope="module")
def command(data, tmp_path_factory):
    """``command(*options, code=0)``: the protocol on two small sets, into one folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("protocol")
    settings = {"settings.yaml": {"width": 4, "epochs": 1}, "quarters.yaml": {"batch": 2}}
    for name, values in settings.items():
        (folder / name).write_text(yaml.safe_dump(values))

    def run(*options, code=0):
        words = [
            *("--data", data, "--out", folder / "out", "--settings", folder / "settings.yaml"),
            *("--set-settings", f"1/4={folder / 'quarters.yaml'}"),
            *("--set", "1/4", "--set", "128/64 zero", "--network", "U-Net"),
            *("--test-case", "Case_2", "--radius", "9", *options),
        ]
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    run.out = folder / "out"
    return run


@pytest.fixture(scope="module")
def first(command):
    """Result of the first run."""
    command()
    return json.loads((command.out / "result.json").read_text())


def test_the_figures_are_those_of_the_checkpoints(first, command):
    [quarters, _] = first["runs"]
    assert (quarters["train"]["tiles"], quarters["test"]["tiles"]) == (8, 4)
    unet, recipe = load_unet(command.out / "1-4" / "U-Net")
    assert recipe.settings["batch"] == 2
    folder = command.out / "tiles" / "1-4"
    dice, iou, pixels = [], [], np.zeros(3)
    for file in sorted((folder / "images").glob("Case_2*")):
        image = cv2.imread(str(file))[:, :, ::-1].transpose(2, 0, 1).copy()
        with torch.inference_mode():
            found = unet(torch.from_numpy(image)[None])[0, 0].numpy() >= 0
        truth = cv2.imread(str(folder / "masks" / file.name), cv2.IMREAD_GRAYSCALE) > 0
        both, a, b = (found & truth).sum(), found.sum(), truth.sum()
        dice.append(2 * both / (a + b) if a + b else 1)
        iou.append(both / (a + b - both) if a + b else 1)
        pixels += (both, a, b)
    both, a, b = pixels
    test = quarters["test"]
    assert (test["dice"], test["iou"]) == pytest.approx((np.mean(dice), np.mean(iou)))
    assert test["pixel_dice"] == pytest.approx(2 * both / (a + b))
    assert test["pixel_iou"] == pytest.approx(both / (a + b - both))


def test_the_page_shows_them_beside_the_study(first, command):
    page = (command.out / "result.md").read_text()
    test, train = first["runs"][0]["test"], first["runs"][0]["train"]
    assert (
        f"| 1/4 | 8 / 4 | U-Net | {train['dice']:.3f} / {train['iou']:.3f} "
        f"| {test['dice']:.3f} / {test['iou']:.3f} | 0.431 / 0.377 "
        f"| {test['pixel_dice']:.3f} / {test['pixel_iou']:.3f} |"
    ) in page
    assert "tested on Case_2" in page
    best = max(first["runs"], key=lambda run: run["test"]["pixel_dice"])
    assert f"best first: {best['set']} (" in page


def test_what_is_finished_is_not_done_again(first, command, monkeypatch):
    monkeypatch.setattr(nuclei_runs, "train_nuclei", None)
    monkeypatch.setattr(nuclei_runs, "tile_scores", None)
    monkeypatch.setattr(nuclei_runs, "make_tiles", None)
    command()
    assert json.loads((command.out / "result.json").read_text())["runs"] == first["runs"]


def test_a_run_that_was_cut_off_is_not_timed(first, command):
    """Trained, and ended before the result was kept."""
    assert all(run["seconds"] > 0 for run in first["runs"])
    (kept,) = (command.out / "1-4").rglob(RESULT_FILE)
    before = kept.read_text()
    kept.unlink()
    command()
    again = json.loads((command.out / "result.json").read_text())["runs"]
    assert [run["seconds"] for run in again] == [None, first["runs"][1]["seconds"]]
    assert "1/4 U-Net not known, cut off, " in (command.out / "result.md").read_text()
    kept.write_text(before)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param(["--epochs", "2"], 1, "training with other settings", id="other settings"),
        pytest.param(["--radius", "8"], 1, "results of another protocol", id="other discs"),
        pytest.param(["--test-case", "Case_3"], 1, "another protocol", id="other cases"),
        pytest.param(["--set-settings", "1/5=x.yaml"], 2, "SET one of", id="no such set"),
        pytest.param(["--set-settings", "1/4"], 2, "takes SET=FILE", id="no file"),
    ],
)
def test_what_does_not_go_with_the_kept_results_is_refused(first, command, options, code, message):
    assert message in " ".join(command(*options, code=code).split())


def test_the_study_s_table_is_whole():
    """Nine sets that can be made, both networks, and the best figure where the study has it."""
    assert len(S3) == 9
    assert set(S3) <= set(SETS)
    part = TileScores(tiles=1, dice=0.5, iou=0.4, pixel_dice=0.5, pixel_iou=0.4)
    runs = tuple(
        SetRun(
            set=name,
            network=network,
            train=part,
            test=part,
            settings={"epochs": 1},
            folder="",
            seconds=1.0,
        )
        for name in S3
        for network in NUCLEI_NETWORKS
    )
    result = NucleiProtocolResult(
        benchmark="nuclei.protocol",
        command="",
        machine={},
        runs=runs,
        frames=1,
        test_cases=("Case_1",),
        radius=9,
    )
    page = protocol_page(result)
    assert "| 256/128 zero | 1 / 1 | U-Net_ResNet50 | 0.500 / 0.400 | 0.500 / 0.400 " in page
    assert page.count("0.746 / 0.597") == 1
    assert page.count("| U-Net |") == page.count("| U-Net_ResNet50 |") == 9
