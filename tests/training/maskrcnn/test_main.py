"""Training of the Mask R-CNN, through its command."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from training.checkpoint import hash_files, load_checkpoint
from training.datasets.annotated import AnnotatedDataset
from training.maskrcnn.__main__ import main
from training.maskrcnn.frames import ValidationInstances, collate, prepare_instances
from training.maskrcnn.network import ARCHITECTURE, build_maskrcnn, load_maskrcnn
from training.maskrcnn.run import _freeze, train_maskrcnn
from training.maskrcnn.settings import PRESETS, MaskrcnnSettings
from training.maskrcnn.trainer import MaskrcnnTraining
from training.run.command_line import read_data
from training.run.lightning import EpochBatches

Run = Callable[..., Any]
MakeDataset = Callable[..., AnnotatedDataset]

SMALL: dict[str, Any] = {
    "min_size": 64,
    "max_size": 64,
    "proposals": 50,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "normalisation": "group",
    "width": 8,
    "regions_per_frame": 16,
    "learning_rate": 0.001,
    "epochs": 2,
}
LOSSES = {"loss", "classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}


def logged(folder: Path, tag: str) -> list[float]:
    """What TensorBoard shows, one value an epoch."""
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    return [event.value for event in log.Scalars(tag)]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a training of seconds."""
    file = tmp_path_factory.mktemp("settings") / "maskrcnn.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, rendered: Path, small: Path, run: Run
) -> Path:
    """Checkpoint of two classes, two epochs."""
    out = tmp_path_factory.mktemp("maskrcnn") / "trained"
    run(main, "--data", rendered, "--out", out, "--settings", small)
    return out


def test_the_checkpoint_is_a_mask_rcnn(trained: Path, rendered: Path) -> None:
    network, recipe = load_maskrcnn(trained)
    assert recipe.class_names == ("spread", "round")
    assert set(recipe.metrics) == LOSSES
    assert recipe.metrics["loss"] == pytest.approx(min(logged(trained, "validation/loss")))
    assert recipe.metrics["loss"] == pytest.approx(
        sum(value for name, value in recipe.metrics.items() if name != "loss")
    )
    assert recipe.initialised_from == "random"
    assert recipe.settings["min_size"] == 64
    side = read_data([str(rendered)], one_class=True)[0].frames[0].height
    assert recipe.scale is not None
    assert recipe.scale.network_scale == pytest.approx(64 / side, abs=1e-4)
    assert recipe.appearance is not None
    assert recipe.appearance.kinds == ("grey",)
    assert recipe.threshold is not None
    assert recipe.threshold.metric == "F1"
    files = [path for path in rendered.rglob("*") if path.is_file()]
    assert recipe.data == {str(rendered): hash_files(files)}
    with torch.no_grad():
        answer = network([torch.rand(3, 60, 90)])[0]
    assert answer["masks"].shape == (len(answer["boxes"]), 1, 60, 90)


def test_the_folder_holds_the_checkpoint_and_the_log(trained: Path) -> None:
    files = {"log", "model.safetensors", "recipe.json", "threshold.png"}
    assert {p.name for p in trained.iterdir()} == files
    for tag in ("train/loss", "train/learning_rate", *(f"validation/{name}" for name in LOSSES)):
        assert len(logged(trained, tag)) == 2, tag


def test_an_interrupted_run_goes_on(
    run: Run,
    trained: Path,
    rendered: Path,
    small: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
) -> None:
    out = tmp_path / "resumed"
    command = (main, "--data", rendered, "--out", out, "--settings", small)
    interrupt_at_step(3)
    assert "--resume" in run(*command, code=1).output
    assert not (out / "recipe.json").exists()
    interrupt_at_step(0)
    assert "goes on as it was begun" in run(*command, "--epochs", 3, "--resume", code=1).output
    run(*command, "--resume")
    for tag in ("train/loss", "validation/loss"):
        assert logged(out, tag) == pytest.approx(logged(trained, tag), rel=1e-4)
    one, _ = load_checkpoint(out, ARCHITECTURE)
    other, _ = load_checkpoint(trained, ARCHITECTURE)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_learns_bright_cells_and_keeps_the_best_epoch(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    boxes = [[(4 + n, 6, 20, 24), (36, 30 + 2 * n, 22, 18)] for n in range(5)]
    dataset = make_dataset(*boxes, [], shape=(64, 64))
    train = dataset.subset({"frame_0", "frame_1", "frame_2", "frame_3", "frame_5"})
    kept = dataset.subset({"frame_4"})
    steps = {"warmup_steps": 4, "background_share": 0, "blank_share": 0}  # 2 steps per epoch
    given = {**SMALL, **steps, "epochs": 8, "gradient_clip": 5.0}
    recipe = train_maskrcnn(train, kept, MaskrcnnSettings(**given), tmp_path / "out", seed=1)
    losses = logged(tmp_path / "out", "validation/loss")
    assert recipe.metrics["loss"] == pytest.approx(min(losses), rel=1e-5)
    assert min(losses) < 0.7 * losses[0]
    rates = logged(tmp_path / "out", "train/learning_rate")
    assert rates[0] == pytest.approx(0.001 * (1 / 4 + 2 / 4) / 2)
    assert rates[2:] == pytest.approx([0.001] * 6)


def new_training(dataset: AnnotatedDataset, **given: Any) -> MaskrcnnTraining:
    settings = MaskrcnnSettings(**{**SMALL, **given})
    shape = {n: getattr(settings, n) for n in ("min_size", "max_size", "proposals")}
    torch.manual_seed(0)
    network = build_maskrcnn(1, **shape, width=8, normalisation=settings.normalisation)
    return MaskrcnnTraining(
        network,
        settings,
        batches=EpochBatches(len(dataset.frames), 1, 2, 0),
        seed=0,
    )


def test_validation_learns_nothing_and_repeats(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 10, 30, 30), (50, 50, 20, 40)])
    training = new_training(dataset, normalisation="batch")
    batch = collate([ValidationInstances(prepare_instances(dataset, 1.0), training.settings)[0]])
    before = {name: t.clone() for name, t in training.network.state_dict().items()}
    training.on_validation_model_eval()
    with torch.no_grad():
        training.validation_step(batch, 0)
        torch.manual_seed(99)
        drawn = torch.random.get_rng_state()
        training.validation_step(batch, 0)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert set(training.losses) == LOSSES - {"loss"}
    assert all(first == second for first, second in training.losses.values())
    after = training.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_examples_are_not_resized(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 10, 30, 30)], shape=(200, 300))
    training = new_training(dataset, window=64, min_size=100, max_size=400)
    kept = ValidationInstances(prepare_instances(dataset, 0.5), training.settings)
    images, targets = collate([kept[0]])
    assert images[0].shape == (3, 64, 64)
    for mode in (True, False):
        transform = training.network.transform.train(mode)
        scaled, scaled_targets = transform(images, targets)
        assert scaled.image_sizes == [(64, 64)]
        assert scaled_targets[0]["boxes"].tolist() == [[5, 5, 20, 20]]


def test_settings_of_a_step_are_applied(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 10, 30, 30)])
    training = new_training(dataset, gradient_clip=0.5, regions_per_frame=16)
    assert training.network.roi_heads.fg_bg_sampler.batch_size_per_image == 16
    for parameter in training.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.on_before_optimizer_step(training.configure_optimizers()["optimizer"])
    norms = [p.grad.norm() for p in training.network.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.5, rel=1e-3)


def test_the_best_epoch_is_kept_over_an_interruption(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset([(10, 10, 30, 30)])
    first, resumed = new_training(dataset), new_training(dataset)
    for training in (first, resumed):
        monkeypatch.setattr(training, "log", lambda *_: None)

    def validate(training: MaskrcnnTraining, loss: float) -> None:
        """Let the weights be told apart by their loss."""
        with torch.no_grad():
            for parameter in training.network.parameters():
                parameter.fill_(loss)
        training.losses["mask"] = [loss]
        training.on_validation_epoch_end()

    for loss in (3.0, 1.0, 2.0):
        validate(first, loss)
    state: dict[str, Any] = {"epoch": 2}
    first.on_save_checkpoint(state)
    resumed.on_load_checkpoint(state)
    validate(resumed, 1.5)
    for training in (first, resumed):
        assert training.best_metrics == {"loss": 1.0, "mask": 1.0}
        best = training.best_weights
        assert best.keys() == training.network.state_dict().keys()
        assert all((best[name] == 1).all() for name, _ in training.network.named_parameters())


def test_bf16_is_trained(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [], [(20, 20, 30, 40)])
    settings = MaskrcnnSettings(**{**SMALL, "bf16": True, "epochs": 1})
    parts = dataset.subset({"frame_0", "frame_1"}), dataset.subset({"frame_2"})
    recipe = train_maskrcnn(*parts, settings, tmp_path / "out")
    assert recipe.metrics["loss"] > 0
    weights, _ = load_checkpoint(tmp_path / "out", ARCHITECTURE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_training_that_diverges_is_a_message(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    settings = MaskrcnnSettings(**{**SMALL, "learning_rate": 1e30})
    parts = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    with pytest.raises(ValueError, match="the training diverged: in epoch 1"):
        train_maskrcnn(*parts, settings, tmp_path / "out")


STILL = {**SMALL, "learning_rate": 1e-12, "weight_decay": 0, "epochs": 1}


def test_starts_from_the_whole_network_of_a_checkpoint(
    run: Run, trained: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, out = tmp_path / "still.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STILL))
    run(main, "--data", rendered, "--out", out, "--init", trained, "--settings", file)
    before, _ = load_checkpoint(trained, ARCHITECTURE)
    after, recipe = load_checkpoint(out, ARCHITECTURE)
    assert recipe.initialised_from == str(trained)
    assert all(torch.allclose(after[n], t, atol=1e-6) for n, t in before.items())
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_heads_for_other_classes_are_renewed_with_a_message(
    run: Run, trained: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, out = tmp_path / "still.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STILL))
    command = ("--data", rendered, "--one-class", "--out", out, "--init", trained)
    with caplog.at_level(logging.WARNING):
        run(main, *command, "--settings", file)
    assert "tells apart spread, round; for cell the layers" in caplog.text
    before, _ = load_checkpoint(trained, ARCHITECTURE)
    after, recipe = load_checkpoint(out, ARCHITECTURE)
    assert recipe.class_names == ("cell",)
    assert after["roi_heads.box_predictor.cls_score.weight"].shape[0] == 2
    kept = "roi_heads.box_head.0.0.weight"
    assert torch.allclose(after[kept], before[kept], atol=1e-6)


@pytest.mark.parametrize(
    ("levels", "trained_parts"),
    [
        pytest.param(0, set(), id="none"),
        pytest.param(3, {"layer2", "layer3", "layer4"}, id="torchvision's"),
        pytest.param(5, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}, id="all"),
    ],
)
def test_the_first_levels_stay_as_they_were(levels: int, trained_parts: set[str]) -> None:
    network = build_maskrcnn(1, min_size=64, max_size=64, proposals=5, width=8)
    _freeze(network, levels)
    body: nn.Module = network.backbone.body
    learnt = {n.split(".")[0] for n, p in body.named_parameters() if p.requires_grad}
    assert learnt == trained_parts
    assert all(p.requires_grad for p in network.roi_heads.parameters())


@pytest.mark.parametrize("init", ["random", "checkpoint"])
def test_only_levels_that_began_trained_are_frozen(
    make_dataset: MakeDataset, trained: Path, tmp_path: Path, init: str
) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    settings = MaskrcnnSettings(**{**SMALL, "epochs": 1, "trainable_levels": 3})
    parts = dataset.subset({"frame_0"}), dataset.subset({"frame_1"})
    origin = str(trained) if init == "checkpoint" else init
    train_maskrcnn(*parts, settings, tmp_path / "out", init=origin)
    after, _ = load_checkpoint(tmp_path / "out", ARCHITECTURE)
    before, _ = load_checkpoint(trained, ARCHITECTURE)
    stem, deep = "backbone.body.conv1.weight", "backbone.body.layer3.0.conv1.weight"
    assert torch.equal(after[stem], before[stem]) == (init == "checkpoint")
    assert not torch.equal(after[deep], before[deep])


def test_a_network_of_another_shape_is_refused_to_start_from(
    run: Run, trained: Path, rendered: Path, tmp_path: Path
) -> None:
    command = ("--data", rendered, "--out", tmp_path / "out", "--init", trained)
    output = run(main, *command, "--preset", "demo", code=1).output
    assert "is a network with width 8; here width 32 is trained" in output


def test_a_checkpoint_of_another_network_is_refused(
    run: Run, trained: Path, rendered: Path, small: Path, tmp_path: Path
) -> None:
    recipe = (trained / "recipe.json").read_text()
    (tmp_path / "recipe.json").write_text(recipe.replace(ARCHITECTURE, "unet"))
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    command = ("--data", rendered, "--out", tmp_path / "out", "--settings", small)
    output = run(main, *command, "--init", tmp_path, code=1).output
    assert f"is a checkpoint of unet; here {ARCHITECTURE} is needed" in output


@pytest.mark.parametrize(
    ("train", "kept", "message"),
    [
        pytest.param({"frame_0"}, {"frame_1"}, "no cell in any of 1 frames to train", id="train"),
        pytest.param(
            {"frame_1"}, {"frame_0"}, "no cell in any of 1 frames to validate", id="validation"
        ),
        pytest.param({"frame_1"}, set(), "got 1 and 0", id="no validation frame"),
        pytest.param({"frame_1"}, {"frame_1"}, "1 frames stand in training and", id="the same"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(
    make_dataset: MakeDataset, tmp_path: Path, train: set[str], kept: set[str], message: str
) -> None:
    dataset = make_dataset([], [(10, 10, 20, 20)])
    parts = dataset.subset(train), dataset.subset(kept)
    with pytest.raises(ValueError, match=message):
        train_maskrcnn(*parts, MaskrcnnSettings(**SMALL), tmp_path / "out")


def test_validation_frames_of_other_classes_are_refused(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([(10, 10, 20, 20)], [(10, 10, 20, 20)])
    kept = replace(dataset.subset({"frame_1"}), class_names=("nucleus",))
    with pytest.raises(ValueError, match="of those to train on: cell; they have nucleus"):
        train_maskrcnn(
            dataset.subset({"frame_0"}), kept, MaskrcnnSettings(**SMALL), tmp_path / "out"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--epochs", "0"], "greater than 0", id="epochs"),
        pytest.param(["--validation-share", "1.5"], "less than 1", id="split above the data set"),
        pytest.param(["--preset", "study", "--data", "absent"], "holds no data set", id="data"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    run: Run, rendered: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    command = ("--data", rendered, "--out", tmp_path / "out", *options)
    assert message in run(main, *command, code=2).output


def test_the_preset_is_the_study() -> None:
    study = PRESETS["study"]
    assert (study.learning_rate, study.weight_decay) == (0.003, 0.0005)
    assert (study.batch, study.epochs) == (2, 50)
    assert (
        study.horizontal_flip_probability,
        study.vertical_flip_probability,
        study.rotate_90_probability,
    ) == (0.5, 0.3, 0.3)
    assert (study.width, study.normalisation, study.window) == (64, "batch", None)


def test_real_frames_are_trained_on(shared_data: Path, tmp_path: Path) -> None:
    dataset, _ = read_data([str(shared_data / "t98g")], one_class=True)
    names = sorted(frame.name for frame in dataset.frames)
    given = {**SMALL, "min_size": 256, "max_size": 512, "window": 128}
    parts = dataset.subset(names[:4]), dataset.subset(names[4:5])
    recipe = train_maskrcnn(*parts, MaskrcnnSettings(**given), tmp_path / "out")
    # The boxes' loss rises at first, as more of the proposals come to lie on cells.
    for name in ("objectness", "classifier"):
        first, second = logged(tmp_path / "out", f"validation/{name}")
        assert second < first
    assert recipe.metrics["loss"] == pytest.approx(
        min(logged(tmp_path / "out", "validation/loss")), rel=1e-5
    )


def test_minutes_limit_a_run(run: Run, rendered: Path, small: Path, tmp_path: Path) -> None:
    command = (main, "--data", rendered, "--out", tmp_path, "--settings", small)
    assert "0.01 minutes in epochs of" in run(*command, "--minutes", 0.01).output
    _, recipe = load_checkpoint(tmp_path, ARCHITECTURE)
    assert recipe.settings["minutes"] == 0.01
    assert "loss" in recipe.metrics


def test_the_best_epoch_of_an_interrupted_run_is_finished(
    run: Run,
    rendered: Path,
    small: Path,
    tmp_path: Path,
    finish_interrupted: Callable[..., None],
) -> None:
    command = (main, "--data", rendered, "--out", tmp_path, "--settings", small)
    steps = int(re.findall(r"epochs of (\d+) steps", run(*command).output)[0])
    finish_interrupted(*command, out=tmp_path, architecture=ARCHITECTURE, step=steps + 1)
