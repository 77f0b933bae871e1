"""Training of the U-Nets, through their commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from training.checkpoint import load_checkpoint
from training.datasets.annotated import AnnotatedDataset
from training.nuclei_tiles import Tile, TileIndex
from training.run.command_line import read_data
from training.run.lightning import EpochBatches
from training.unet.__main__ import main
from training.unet.dice import dice_at
from training.unet.frames import foreground_mask, prepare_frames
from training.unet.network import ARCHITECTURE, build_unet, load_unet
from training.unet.run import train_unet
from training.unet.samples import ValidationImages
from training.unet.settings import GLIOMA_PRESETS, NUCLEI_PRESETS, UnetSettings
from training.unet.trainer import BLANK_FOREGROUND, UnetTraining, unet_threshold

Run = Callable[..., Any]
MakeDataset = Callable[..., AnnotatedDataset]

SMALL = {
    "encoder": "U-Net",
    "width": 4,
    "resolution": "64x64",
    "batch": 2,
    "learning_rate": 0.01,
    "epochs": 2,
}


def logged(folder: Path, tag: str) -> list[float]:
    """What TensorBoard shows, one value an epoch."""
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    return [event.value for event in log.Scalars(tag)]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a training of a second."""
    file = tmp_path_factory.mktemp("settings") / "unet.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


@pytest.fixture(scope="session")
def glioma(tmp_path_factory: pytest.TempPathFactory, rendered: Path, small: Path, run: Run) -> Path:
    """Checkpoint of two epochs."""
    out = tmp_path_factory.mktemp("unet") / "glioma"
    run(main, "glioma", "--data", rendered, "--out", out, "--settings", small)
    return out


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two cases: discs, some of which nearly touch."""
    folder = tmp_path_factory.mktemp("tiles")

    def write(name: str, case: str, *centres: tuple[int, int]) -> Tile:
        mask = np.zeros((32, 48), np.uint8)
        for centre in centres:
            cv2.circle(mask, centre, 5, 255, -1)
        noise = np.random.default_rng(len(name)).integers(0, 30, (32, 48, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), noise + (mask // 2)[:, :, None])
        cv2.imwrite(str(folder / f"{name}-mask.png"), mask)
        return Tile(image=f"{name}.png", mask=f"{name}-mask.png", case=case)

    index = TileIndex(
        set_name="256/128",
        tile_size=48,
        radius=5,
        data={"brecahad": "a hash"},
        train=(write("a", "1", (10, 10), (22, 10)), write("bc", "1", (20, 20)), write("def", "1")),
        test=(write("ghij", "2", (30, 15)),),
    )
    (folder / "tiles.json").write_text(index.model_dump_json())
    return folder


def test_the_checkpoint_is_a_unet(glioma: Path, rendered: Path) -> None:
    unet, recipe = load_unet(glioma)
    assert recipe.class_names == ("glioma",)
    assert set(recipe.metrics) == {"dice", "iou", "loss", "blank_foreground"}
    assert recipe.threshold is not None
    assert recipe.threshold.metric == "Dice"
    assert recipe.initialised_from == "random"
    assert recipe.settings["encoder"] == "U-Net"
    assert list(recipe.data) == [str(rendered)]
    assert "segmentation-models-pytorch" in recipe.versions
    assert unet(torch.zeros(1, 3, 30, 40, dtype=torch.uint8)).shape == (1, 1, 30, 40)


def test_the_folder_holds_the_checkpoint_and_the_log(glioma: Path) -> None:
    files = {"log", "model.safetensors", "recipe.json", "threshold.png"}
    assert {p.name for p in glioma.iterdir()} == files
    for tag in (
        "train/loss",
        *(f"validation/{m}" for m in ("loss", "dice", "iou", BLANK_FOREGROUND)),
    ):
        assert len(logged(glioma, tag)) == 2


def test_learns_bright_cells_and_keeps_the_best_epoch(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    frames = [[(10 + n, 20, 30, 40), (60, 5 + 3 * n, 20, 50)] for n in range(6)]
    dataset = make_dataset(*frames, [])  # a frame without cells is one to train on
    train = dataset.subset({f"frame_{n}" for n in (0, 1, 2, 3, 6)})
    kept = dataset.subset({"frame_4"})
    settings = UnetSettings(
        **{
            **SMALL,
            "epochs": 12,
            "learning_rate": 0.02,
            "flip_probability": 0.5,
            "blank_share": 0.4,
        }
    )
    recipe = train_unet(train, kept, settings, tmp_path / "out", seed=1)
    scores = np.array(logged(tmp_path / "out", "validation/dice"))
    blank = np.array(logged(tmp_path / "out", f"validation/{BLANK_FOREGROUND}"))
    found = recipe.metrics["dice"] - recipe.metrics[BLANK_FOREGROUND]
    assert found == pytest.approx(max(scores - blank))
    assert recipe.metrics["dice"] > 0.9
    assert recipe.metrics[BLANK_FOREGROUND] < 0.1
    assert recipe.threshold is not None
    assert max(recipe.threshold.best) > 0.9
    losses = logged(tmp_path / "out", "train/loss")
    assert losses[-1] < 0.6 * losses[0]
    unet, _ = load_unet(tmp_path / "out")
    unseen = dataset.subset({"frame_5"}).frames[0]
    assert dice_at(unet, unseen.read(), foreground_mask(unseen), "64x64", "native") > 0.85


def test_without_empty_frames_there_are_none(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    parts = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    settings = UnetSettings(**SMALL, blank_share=0)
    recipe = train_unet(*parts, settings, tmp_path / "out")
    assert set(recipe.metrics) == {"dice", "iou", "loss"}
    assert recipe.threshold is not None


def test_the_threshold_is_that_of_the_weights_that_are_kept(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    train, kept = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    # The average that is kept is far behind the weights of the last step.
    settings = UnetSettings(**SMALL, blank_share=0, weight_averaging=0.99)
    recipe = train_unet(train, kept, settings, tmp_path / "out")
    batches = DataLoader(ValidationImages(prepare_frames(kept), settings), 1)
    assert recipe.threshold == unet_threshold(load_unet(tmp_path / "out")[0], batches)


def test_a_validation_without_cells_chooses_no_threshold(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [])
    parts = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    assert train_unet(*parts, UnetSettings(**SMALL), tmp_path / "out").threshold is None
    assert not (tmp_path / "out" / "threshold.png").exists()


def test_empty_frames_cost_an_epoch_its_rank_and_leave_dice_as_it_is() -> None:
    batches = EpochBatches(1, 1, 1, seed=0)
    training = UnetTraining(
        build_unet("U-Net", width=2),
        UnetSettings(**SMALL),
        batches=batches,
        validation_batches=1,
        seed=0,
    )
    full = {"dice": 0.80, "loss": 0.5, BLANK_FOREGROUND: 0.2}
    empty = {"dice": 0.79, "loss": 0.5, BLANK_FOREGROUND: 0.0}
    assert training.rank(empty) > training.rank(full) > training.rank({"dice": 0.5, "loss": 0.1})
    logits = torch.full((1, 1, 4, 4), -9.0)
    logits[..., 0] = 9.0
    training.unet.forward = lambda images: logits  # type: ignore[method-assign]
    image, truth = torch.zeros((1, 3, 4, 4), dtype=torch.uint8), (logits > 0).float()
    logged: list[float] = []
    training.log = lambda name, value, **about: logged.append(float(value))  # type: ignore[assignment]
    training.validation_step([image, truth, torch.ones(1, 1, 1, 1)], 0)
    training.validation_step([image, truth * 0, torch.ones(1, 1, 1, 1)], 1)
    assert training.scores == [(1.0, 1.0)]
    assert training.blank_shares == [0.25]
    assert len(logged) == 1


def test_an_interrupted_run_goes_on(
    run: Run,
    glioma: Path,
    rendered: Path,
    small: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
) -> None:
    out = tmp_path / "resumed"
    command = (main, "glioma", "--data", rendered, "--out", out, "--settings", small)
    interrupt_at_step(3)
    assert "--resume" in run(*command, code=1).output
    assert not (out / "recipe.json").exists()
    interrupt_at_step(0)
    other = run(*command, "--epochs", 3, "--resume", code=1).output
    assert "goes on as it was begun" in other
    assert "'epochs': 3" in other
    run(*command, "--resume")
    losses, scores = "train/loss", "validation/dice"
    assert logged(out, losses) == pytest.approx(logged(glioma, losses), rel=1e-4)
    assert logged(out, scores) == pytest.approx(logged(glioma, scores), abs=1e-4)
    one, _ = load_checkpoint(out, ARCHITECTURE)
    other, _ = load_checkpoint(glioma, ARCHITECTURE)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_a_moving_average_of_the_weights_is_kept(run: Run, rendered: Path, tmp_path: Path) -> None:
    def train(name: str, **averaging: float) -> dict[str, torch.Tensor]:
        file, out = tmp_path / f"{name}.yaml", tmp_path / name
        file.write_text(yaml.safe_dump({**SMALL, "epochs": 1, **averaging}))  # two steps
        run(main, "glioma", "--data", rendered, "--out", out, "--settings", file)
        return load_checkpoint(out, ARCHITECTURE)[0]

    plain, first = train("plain"), train("first", weight_averaging=1 - 1e-9)
    averaged = train("averaged", weight_averaging=0.25)
    assert averaged.keys() == plain.keys()
    for name in ("network.head.weight", "network.down.0.1.running_var"):  # learnt, and seen
        assert not torch.allclose(first[name], plain[name], rtol=0.01)
        expected = 0.25 * first[name] + 0.75 * plain[name]
        assert torch.allclose(averaged[name], expected, atol=1e-6), name


def test_an_interrupted_average_goes_on(
    run: Run, rendered: Path, tmp_path: Path, interrupt_at_step: Callable[[int], None]
) -> None:
    file = tmp_path / "averaged.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "weight_averaging": 0.8}))

    def train(out: Path, *resume: str, code: int = 0) -> None:
        common = ("--data", rendered, "--out", out, "--settings", file)
        run(main, "glioma", *common, *resume, code=code)

    train(tmp_path / "whole")
    interrupt_at_step(3)
    train(tmp_path / "resumed", code=1)
    interrupt_at_step(0)
    train(tmp_path / "resumed", "--resume")
    one, _ = load_checkpoint(tmp_path / "whole", ARCHITECTURE)
    other, _ = load_checkpoint(tmp_path / "resumed", ARCHITECTURE)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_starts_from_the_whole_model_of_a_checkpoint(
    run: Run, glioma: Path, rendered: Path, tmp_path: Path
) -> None:
    file = tmp_path / "still.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "learning_rate": 1e-12, "epochs": 1}))
    out = tmp_path / "out"
    run(main, "glioma", "--data", rendered, "--out", out, "--init", glioma, "--settings", file)
    before, _ = load_checkpoint(glioma, ARCHITECTURE)
    after, recipe = load_checkpoint(out, ARCHITECTURE)
    assert recipe.initialised_from == str(glioma)
    for name, tensor in before.items():
        if "running" not in name and "batches" not in name:
            assert torch.allclose(after[name], tensor, atol=1e-6), name


def test_early_stopping_ends_the_run(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    # Bright cells that are not annotated: the better they are learnt, the higher is this loss.
    frames = tuple(replace(frame, cells=()) for frame in dataset.frames[1:])
    settings = UnetSettings(**{**SMALL, "epochs": 30, "early_stopping": 2})
    parts = dataset.subset({"frame_0"}), replace(dataset, frames=frames)
    train_unet(*parts, settings, tmp_path / "out")
    losses = logged(tmp_path / "out", "validation/loss")
    assert len(losses) == losses.index(min(losses)) + 3 < 30


def test_a_training_that_diverges_is_a_message(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    settings = UnetSettings(**{**SMALL, "optimizer": "SGD", "learning_rate": 1e30})
    parts = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    with pytest.raises(ValueError, match="the training diverged: in epoch 1"):
        train_unet(*parts, settings, tmp_path / "out")


def test_nuclei_are_trained_on_tiles(run: Run, tiles: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "nuclei.yaml", tmp_path / "out"
    file.write_text("width: 4\nbatch: 2\nepochs: 8\nplateau_patience: 0\n")
    run(main, "nuclei", "--tiles", tiles, "--out", out, "--settings", file)
    _, recipe = load_unet(out)
    assert recipe.class_names == ("nucleus",)
    assert recipe.metrics[BLANK_FOREGROUND] >= 0
    assert recipe.threshold is not None
    told = {name: recipe.settings[name] for name in ("set_name", "tile_size", "radius")}
    assert told == {"set_name": "256/128", "tile_size": 48, "radius": 5.0}
    assert list(recipe.data) == ["brecahad", str(tiles)]
    rates, losses = logged(out, "train/learning_rate"), logged(out, "validation/loss")
    expected, best = [0.1], float("inf")
    for loss in losses[:-1]:
        expected.append(expected[-1] if loss < best * (1 - 1e-4) else expected[-1] / 10)
        best = min(best, loss)
    assert rates == pytest.approx(expected)
    assert rates[-1] < rates[0]


def test_the_presets_are_the_studies() -> None:
    glioma, pre_train = GLIOMA_PRESETS["study"], GLIOMA_PRESETS["pre-train"]
    assert (glioma.optimizer, glioma.learning_rate, glioma.plateau_patience) == ("Adam", 1e-4, None)
    assert (glioma.epochs, pre_train.epochs) == (300, 60)
    assert GLIOMA_PRESETS["pre-train-57-5"].resolution == "1472p"
    nuclei = NUCLEI_PRESETS["study"]
    assert (nuclei.learning_rate, nuclei.loss, nuclei.border_map) == (0.1, "cross-entropy", True)
    assert nuclei.flip_probability == 0.5
    assert nuclei.rotate_90
    assert nuclei.plateau_patience is not None
    assert (nuclei.sharpness, nuclei.contrast, nuclei.window_scale) == (0, 0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--resolution", "1080p"], "a resolution is 704p, 1472p", id="resolution"),
        pytest.param(["--encoder", "VGG20"], "'VGG20' is not one of", id="encoder"),
        pytest.param(["--epochs", "0"], "greater than 0", id="epochs"),
        pytest.param(["--validation-share", "1.5"], "less than 1", id="split above the data set"),
        pytest.param(
            ["--resolution", "native", "--mode", "crop"], "windows need a size", id="native crops"
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(
    run: Run, rendered: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    command = ("glioma", "--data", rendered, "--out", tmp_path / "out", *options)
    assert message in run(main, *command, code=2).output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"encoder": "VGG20"}, "unknown encoder; choose one of", id="encoder"),
        pytest.param({"mode": "crop", "window_scale": 0.57}, "goes with mode resize", id="scale"),
        pytest.param({"border_map": True, "loss": "dice"}, "loss dice has none", id="border map"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        UnetSettings(**given)


@pytest.mark.parametrize(
    ("validation", "code", "message"),
    [
        pytest.param([0], 1, "1 frames stand in training and validation", id="frames of training"),
        pytest.param([0, 99], 2, "no frame is called 'absent_99'", id="more than there are"),
    ],
)
def test_validation_frames_that_cannot_be_used_are_refused(
    run: Run, rendered: Path, tmp_path: Path, validation: list[int], code: int, message: str
) -> None:
    names = sorted(p.stem for p in rendered.rglob("*.png"))
    listing = tmp_path / "validation.txt"
    listing.write_text("\n".join(names[n] if n < len(names) else f"absent_{n}" for n in validation))
    command = ("--data", rendered, "--validation", f"{rendered}@{listing}", "--out", tmp_path / "o")
    assert message in run(main, "glioma", *command, code=code).output


def test_nothing_to_learn_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([], [(10, 10, 20, 20)])
    empty, kept = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    settings = UnetSettings(**SMALL)
    with pytest.raises(ValueError, match="no foreground in any of 1 images"):
        train_unet(empty, kept, settings, tmp_path / "out")
    with pytest.raises(ValueError, match="got 1 and 0"):
        train_unet(kept, dataset.subset(()), settings, tmp_path / "out")


def test_a_checkpoint_with_another_encoder_is_refused(
    run: Run, glioma: Path, rendered: Path, tmp_path: Path
) -> None:
    command = ("glioma", "--data", rendered, "--out", tmp_path / "out", "--init", glioma)
    output = run(main, *command, "--encoder", "MobileNetV2", code=1).output
    assert "is a U-Net with the encoder U-Net; here MobileNetV2 is trained" in output


def test_a_folder_without_tiles_is_refused(run: Run, tmp_path: Path) -> None:
    output = run(main, "nuclei", "--tiles", tmp_path, "--out", tmp_path / "out", code=1).output
    assert "make it with `python -m training.nuclei_tiles`" in output


def test_imagenet_weights_of_the_plain_unet_are_refused(
    run: Run, rendered: Path, small: Path, tmp_path: Path
) -> None:
    command = ("--data", rendered, "--out", tmp_path / "out", "--settings", small)
    output = run(main, "glioma", *command, "--init", "imagenet", code=1).output
    assert "no ImageNet weights of the plain U-Net" in output


def test_real_frames_are_learnt(shared_data: Path, tmp_path: Path) -> None:
    dataset, _ = read_data([str(shared_data / "t98g")], one_class=True)
    names = sorted(frame.path.stem for frame in dataset.frames)
    settings = UnetSettings(
        **{**SMALL, "width": 8, "resolution": "96x96", "epochs": 12, "samples_per_frame": 2}
    )
    parts = dataset.subset(names[:6]), dataset.subset(names[6:8])
    recipe = train_unet(*parts, settings, tmp_path / "out")
    assert recipe.metrics["dice"] > 0.6


def test_minutes_limit_a_run(run: Run, rendered: Path, small: Path, tmp_path: Path) -> None:
    command = (main, "glioma", "--data", rendered, "--out", tmp_path, "--settings", small)
    assert "0.01 minutes in epochs of" in run(*command, "--minutes", 0.01).output
    _, recipe = load_checkpoint(tmp_path, ARCHITECTURE)
    assert recipe.settings["minutes"] == 0.01
    assert "dice" in recipe.metrics


def test_the_best_epoch_of_an_interrupted_run_is_finished(
    run: Run,
    rendered: Path,
    small: Path,
    tmp_path: Path,
    finish_interrupted: Callable[..., None],
) -> None:
    command = (main, "glioma", "--data", rendered, "--out", tmp_path, "--settings", small)
    steps = int(re.findall(r"epochs of (\d+) steps", run(*command).output)[0])
    finish_interrupted(*command, out=tmp_path, architecture=ARCHITECTURE, step=steps + 1)
