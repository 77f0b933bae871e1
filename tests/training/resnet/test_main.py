"""Training of the cell classifier, through its command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cytoserve.contract import CROP_SIZE
from training.checkpoint import load_checkpoint
from training.crops import Crop, CropIndex, read_index
from training.resnet.__main__ import main
from training.resnet.network import ARCHITECTURE, load_classifier
from training.resnet.settings import ResnetSettings
from training.resnet.trainer import ClassifierTraining, _loaders, accuracies

Run = Callable[..., Any]


def write_crops(folder: Path, train: list[int], validation: list[int]) -> Path:
    """Crops of the given classes: 0 is red, 1 is blue, 2 is green, with noise."""
    random = np.random.default_rng(0)
    colours = np.array([(40, 40, 200), (200, 40, 40), (40, 200, 40)])  # BGR

    def write(side: str, class_ids: list[int]) -> tuple[Crop, ...]:
        (folder / side).mkdir(parents=True)
        crops = []
        for number, class_id in enumerate(class_ids):
            pixels = colours[class_id] + random.integers(-30, 30, (CROP_SIZE, CROP_SIZE, 3))
            crop = Crop(file=f"{side}/{number}.png", class_id=class_id)
            cv2.imwrite(str(folder / crop.file), pixels.astype(np.uint8))
            crops.append(crop)
        return tuple(crops)

    index = CropIndex(
        class_names=("red", "blue", "green")[: max(train) + 1],
        data={},
        train=write("train", train),
        validation=write("validation", validation),
    )
    (folder / "crops.json").write_text(index.model_dump_json())
    return folder


def logged(folder: Path, tag: str) -> list[float]:
    """What TensorBoard shows, one value an epoch."""
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    return [event.value for event in log.Scalars(tag)]


def test_the_checkpoint_is_a_classifier_of_the_crops_classes(classifier: Path, crops: Path) -> None:
    network, recipe = load_classifier(classifier)
    assert recipe.class_names == ("spread", "round")
    assert list(recipe.metrics) == ["accuracy", "balanced_accuracy", "loss"]
    assert recipe.settings["epochs"] == 2
    assert list(recipe.data)[1:] == [str(crops)]
    assert recipe.scale is not None
    assert recipe.scale == read_index(crops).scale
    logits = network(torch.zeros(3, 3, CROP_SIZE, CROP_SIZE, dtype=torch.uint8))
    assert logits.shape == (3, 2)


def test_the_folder_holds_the_checkpoint_and_the_log(classifier: Path) -> None:
    assert {p.name for p in classifier.iterdir()} == {"log", "model.safetensors", "recipe.json"}
    for tag in ("train/loss", "validation/loss", "validation/balanced_accuracy"):
        assert len(logged(classifier, tag)) == 2


def test_learns_colours_with_a_rare_class(run: Run, tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", [0] * 72 + [1] * 8, [0, 0, 0, 1])
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 3\nbatch: 8\nlearning_rate: 1.0e-4\n")
    output = run(main, "--crops", folder, "--out", tmp_path / "out", "--settings", file).output
    assert "epoch 3/3" in output
    _, recipe = load_checkpoint(tmp_path / "out", ARCHITECTURE)
    assert recipe.scale is None  # crops of an earlier version tell none
    losses = logged(tmp_path / "out", "train/loss")
    # Of equally frequent classes, guessing costs log(2) = 0.69. Seeds 0 to 2 ended at 0.25 to 0.32.
    assert losses[-1] < 0.45


def test_classes_are_sampled_equally_often(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", [0] * 90 + [1] * 10, [0])
    loader, _ = _loaders(folder, read_index(folder), ResnetSettings(batch=20), seed=0)
    drawn = torch.cat([ids for _ in range(10) for _, ids in loader])
    assert len(drawn) == 1000
    assert 430 < int((drawn == 1).sum()) < 570


@pytest.mark.parametrize(
    ("crops", "batch", "devices", "batches"),
    [
        pytest.param(66, 32, 1, 3, id="a-last-batch-of-two"),
        pytest.param(65, 32, 1, 2, id="a-last-crop-is-left-out"),
        pytest.param(33, 32, 2, 1, id="a-share-below-a-batch"),
        pytest.param(66, 32, 2, 1, id="a-last-crop-of-each-share-is-left-out"),
    ],
)
def test_no_batch_is_a_single_crop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crops: int,
    batch: int,
    devices: int,
    batches: int,
) -> None:
    folder = write_crops(tmp_path, [0] * (crops - 5) + [1] * 5, [0])
    settings = ResnetSettings(batch=batch, devices=devices)
    for module in ("training.run.lightning", "training.resnet.trainer"):
        monkeypatch.setattr(f"{module}.processes", lambda: (0, devices))
    loader, _ = _loaders(folder, read_index(folder), settings, seed=0)
    sizes = [len(ids) for _, ids in loader]
    assert len(sizes) == batches
    assert min(sizes) > 1


def test_the_best_epoch_of_an_interrupted_run_is_finished(
    crops: Path, tmp_path: Path, finish_interrupted: Callable[..., None]
) -> None:
    command = (main, "--crops", crops, "--out", tmp_path, "--epochs", 2)
    finish_interrupted(*command, out=tmp_path, architecture=ARCHITECTURE, step=2)


def test_minutes_limit_a_run(run: Run, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "timed"
    output = run(main, "--crops", crops, "--out", out, "--minutes", 0.05).output
    assert "0.05 minutes in epochs of" in output
    _, recipe = load_checkpoint(out, ARCHITECTURE)
    assert recipe.settings["minutes"] == 0.05
    assert "balanced_accuracy" in recipe.metrics


def test_the_learning_rate_falls_with_the_minutes(
    run: Run, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierTraining, "share_done", 0.5)  # all the time
    run(main, "--crops", crops, "--out", tmp_path, "--minutes", 0.01)
    assert logged(tmp_path, "train/learning_rate")[0] == pytest.approx(1.5e-4)


@pytest.mark.parametrize(
    ("confusion", "accuracy", "balanced"),
    [
        pytest.param([[8, 0], [1, 1]], 0.9, 0.75, id="two classes"),
        pytest.param([[8, 2, 0], [0, 0, 0], [0, 0, 5]], 13 / 15, 0.9, id="one is absent"),
        pytest.param([[0, 0], [0, 3]], 1.0, 1.0, id="one class alone"),
    ],
)
def test_a_class_absent_from_validation_counts_for_nothing(
    confusion: list[list[int]], accuracy: float, balanced: float
) -> None:
    found = accuracies(torch.tensor(confusion))
    assert found == pytest.approx({"accuracy": accuracy, "balanced_accuracy": balanced})


def test_an_interrupted_run_goes_on(
    run: Run,
    classifier: Path,
    crops: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
) -> None:
    out = tmp_path / "resumed"
    command = (main, "--crops", crops, "--out", out, "--epochs", 2)
    interrupt_at_step(1)
    assert "before the first epoch" in run(*command, code=1).output
    assert "no interrupted run" in run(*command, "--resume", code=1).output
    interrupt_at_step(2)
    assert "--resume" in run(*command, code=1).output
    assert not (out / "recipe.json").exists()

    interrupt_at_step(0)
    run(*command, "--resume")
    _, recipe = load_checkpoint(out, ARCHITECTURE)
    balanced = logged(out, "validation/balanced_accuracy")
    assert recipe.metrics["balanced_accuracy"] == pytest.approx(max(balanced))
    # Both epochs are those of the run that nothing cut off: schedule, crops and augmentation.
    rates, losses = "train/learning_rate", "train/loss"
    assert logged(out, rates) == logged(classifier, rates) == pytest.approx([3e-4, 1.5e-4])
    assert logged(out, losses) == pytest.approx(logged(classifier, losses), rel=1e-3)
    assert not (out / "resume").exists()


def test_the_best_epoch_is_kept_across_a_resume(
    run: Run,
    crops: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    balanced = iter([0.9, 0.6])
    monkeypatch.setattr(
        "training.resnet.trainer.accuracies",
        lambda confusion: {"accuracy": 0.5, "balanced_accuracy": next(balanced)},
    )
    out = tmp_path / "resumed"
    command = (main, "--crops", crops, "--out", out, "--epochs", 2)
    interrupt_at_step(2)
    run(*command, code=1)
    interrupted = torch.load(out / "resume" / "last.ckpt", weights_only=True)
    interrupt_at_step(0)
    run(*command, "--resume")
    weights, recipe = load_checkpoint(out, ARCHITECTURE)
    assert recipe.metrics["balanced_accuracy"] == 0.9
    head = "resnet.fc.weight"
    assert torch.equal(weights[head], interrupted["state_dict"][f"classifier.{head}"])


def test_starts_from_a_checkpoint_of_other_classes(
    run: Run, classifier: Path, tmp_path: Path
) -> None:
    folder = write_crops(tmp_path / "crops", [0, 1, 2], [0, 1, 2])
    file = tmp_path / "slow.yaml"
    file.write_text("learning_rate: 1.0e-12\nweight_decay: 0\nepochs: 1\n")
    out = tmp_path / "out"
    run(main, "--crops", folder, "--out", out, "--init", classifier, "--settings", file)
    weights, recipe = load_checkpoint(out, ARCHITECTURE)
    before, _ = load_checkpoint(classifier, ARCHITECTURE)
    assert recipe.initialised_from == str(classifier)
    assert weights["resnet.fc.weight"].shape[0] == 3
    assert torch.allclose(weights["resnet.conv1.weight"], before["resnet.conv1.weight"], atol=1e-6)


@pytest.mark.parametrize("crops_to_train_on", [2, 3], ids=["one batch", "a crop is left over"])
def test_the_smallest_data_sets_can_be_trained_on(
    run: Run, tmp_path: Path, crops_to_train_on: int
) -> None:
    folder = write_crops(tmp_path / "crops", [0, 1, 0][:crops_to_train_on], [0])
    (tmp_path / "s.yaml").write_text("batch: 2\nepochs: 1\n")
    settings = tmp_path / "s.yaml"
    run(main, "--crops", folder, "--out", tmp_path / "out", "--settings", settings)
    assert load_checkpoint(tmp_path / "out", ARCHITECTURE)[1].class_names == ("red", "blue")


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        pytest.param([0, 2], [0], "without training crops: blue", id="a class has none"),
        pytest.param([0, 1], [], "validation crops: 0", id="nothing to validate"),
    ],
)
def test_crops_that_cannot_be_trained_on_are_refused(
    run: Run, tmp_path: Path, train: list[int], validation: list[int], message: str
) -> None:
    folder = write_crops(tmp_path / "crops", train, validation)
    output = run(main, "--crops", folder, "--out", tmp_path / "out", code=1).output
    assert message in output


def test_a_damaged_crop_is_refused(run: Run, crops: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(crops, tmp_path / "crops"))
    file = folder / read_index(folder).train[3].file
    file.write_bytes(file.read_bytes()[:20])
    output = run(main, "--crops", folder, "--out", tmp_path / "out", code=1).output
    assert f"{file.name} cannot be read; cut the crops again" in output


def test_a_checkpoint_of_another_network_is_refused(
    run: Run, general: Path, crops: Path, tmp_path: Path
) -> None:
    output = run(
        main, "--crops", crops, "--out", tmp_path / "out", "--init", general, code=1
    ).output
    assert "is a checkpoint of yolo11n-seg; here resnet50 is needed" in output


def test_imagenet_weights_out_of_reach_are_a_message(
    run: Run, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(
        torchvision.models.ResNet50_Weights.IMAGENET1K_V2.value.__dict__,
        "url",
        "http://127.0.0.1:9/resnet50-11ad3fa6.pth",
    )
    output = run(
        main, "--crops", crops, "--out", tmp_path / "out", "--init", "imagenet", code=1
    ).output
    assert "http://127.0.0.1:9/resnet50-11ad3fa6.pth, which cannot be fetched" in output
    assert "omit --init" in output
