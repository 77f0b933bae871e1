"""Training of SAM, through its command; `tiny` is made tinier, of the same classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import load_checkpoint
from training.datasets.annotated import AnnotatedDataset
from training.run.lightning import EpochBatches
from training.sam import network as sam_network
from training.sam.__main__ import main
from training.sam.frames import Sides, prepare_frames
from training.sam.network import ARCHITECTURE, KeptEmbeddings, build_sam, load_sam, small_sam
from training.sam.prompts import box_prompts, decode
from training.sam.run import train_sam
from training.sam.samples import TrainingSamples
from training.sam.settings import PRESETS, SamSettings
from training.sam.trainer import SamTraining, box_ious

Run = Callable[..., Any]
MakeDataset = Callable[..., AnnotatedDataset]

SMALL = {
    "size": "tiny",
    "train_encoder": True,
    "train_prompt_encoder": True,
    "epochs": 2,
    "samples_per_frame": 2,
    "prompts_per_frame": 4,
    "learning_rate": 0.002,
    "points_added": 0.3,
    "coarse_masks": 0.3,
    "flip_probability": 0.5,
}


@pytest.fixture(scope="module", autouse=True)
def tinier() -> Iterator[None]:
    """64 pixels instead of 512, so that an epoch takes a blink."""
    with pytest.MonkeyPatch.context() as patch:
        smallest = partial(small_sam, side=64, patch=8, encoder_width=32, depth=2, width=32)
        patch.setitem(sam_network._BUILDERS, "tiny", smallest)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a training of a second."""
    file = tmp_path_factory.mktemp("settings") / "sam.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, rendered: Path, small: Path, run: Run, tinier: None
) -> Path:
    """Checkpoint of two epochs."""
    out = tmp_path_factory.mktemp("sam") / "trained"
    run(main, "--data", rendered, "--out", out, "--settings", small)
    return out


def logged(folder: Path, tag: str) -> list[float]:
    """What TensorBoard shows, one value an epoch."""
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    return [event.value for event in log.Scalars(tag)]


def test_the_checkpoint_is_a_sam(trained: Path, rendered: Path) -> None:
    sam, recipe = load_sam(trained)
    assert recipe.class_names == ("cell",)
    assert set(recipe.metrics) == {"box_iou", "quality_error"}
    assert recipe.initialised_from == "random"
    assert recipe.settings["size"] == "tiny"
    assert list(recipe.data) == [str(rendered)]
    assert sam.image_encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 32, 8, 8)
    assert {p.name for p in trained.iterdir()} == {"log", "model.safetensors", "recipe.json"}
    for tag in ("train/loss", "train/learning_rate", "validation/box_iou"):
        assert len(logged(trained, tag)) == 2


def test_learns_cells_of_unseen_frames_and_keeps_the_best_epoch(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    frames = [[(10 + 3 * n, 20, 30, 40), (60, 5 + 4 * n, 20, 50)] for n in range(7)]
    dataset = make_dataset(*frames)
    train = dataset.subset({f"frame_{n}" for n in range(6)})
    kept = dataset.subset({"frame_6"})
    given = {"epochs": 10, "samples_per_frame": 6, "points_added": 0, "coarse_masks": 0}
    settings = SamSettings(**{**SMALL, **given, "loss": "surroundings+dice"})
    recipe = train_sam(train, kept, settings, tmp_path / "out", seed=1)
    scores = logged(tmp_path / "out", "validation/box_iou")
    assert recipe.metrics["box_iou"] == pytest.approx(max(scores))
    assert recipe.metrics["box_iou"] > 0.5  # on a frame that it was not trained on
    losses = logged(tmp_path / "out", "train/loss")
    assert losses[-1] < 0.6 * losses[0]
    rates = logged(tmp_path / "out", "train/learning_rate")
    assert rates[-1] < 0.2 * max(rates)


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
    interrupt_at_step(10)
    assert "--resume" in run(*command, code=1).output
    assert not (out / "recipe.json").exists()
    interrupt_at_step(0)
    other = run(*command, "--epochs", 3, "--resume", code=1).output
    assert "goes on as it was begun" in other
    run(*command, "--resume")
    for tag in ("train/loss", "train/learning_rate", "validation/box_iou"):
        assert logged(out, tag) == pytest.approx(logged(trained, tag), rel=1e-3)
    one, _ = load_checkpoint(out, ARCHITECTURE)
    other, _ = load_checkpoint(trained, ARCHITECTURE)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_the_encoder_learns_without_prompts_first(
    run: Run, rendered: Path, tmp_path: Path, interrupt_at_step: Callable[[int], None]
) -> None:
    file = tmp_path / "dense.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "epochs": 6, "dense_epochs": 4, "views": True}))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    output = run(main, "--data", rendered, "--out", whole, "--settings", file).output
    assert "epoch 4/6  foreground_dice" in output
    assert "epoch 5/6  box_iou" in output
    losses = logged(whole, "train/dense_loss")
    assert len(losses) == len(logged(whole, "validation/foreground_dice")) == 4
    assert losses[-1] < 0.95 * losses[0]
    scores = logged(whole, "validation/box_iou")
    assert len(scores) == len(logged(whole, "train/loss")) == 2
    sam, recipe = load_sam(whole)  # which refuses weights that are not of a SAM
    assert recipe.metrics["box_iou"] == pytest.approx(max(scores))

    command = (main, "--data", rendered, "--out", resumed, "--settings", file)
    interrupt_at_step(20)  # 8 steps an epoch: in the third
    run(*command, code=1)
    interrupt_at_step(0)
    run(*command, "--resume")
    assert logged(resumed, "train/dense_loss") == pytest.approx(losses, rel=1e-3)
    assert logged(resumed, "validation/box_iou") == pytest.approx(scores, rel=1e-3)
    assert all(
        torch.allclose(weights, sam.state_dict()[name], atol=1e-5)
        for name, weights in load_sam(resumed)[0].state_dict().items()
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"train_encoder": False}, "the image encoder, which is frozen", id="frozen"),
        pytest.param({"epochs": 3}, "of 3 epochs, 3 dense_epochs leave none", id="no epoch left"),
    ],
)
def test_dense_epochs_that_make_no_sense_are_refused(
    changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SamSettings(**{**SMALL, "epochs": 5, "dense_epochs": 3, **changed})


def published(folder: Path) -> Path:
    """A file as segment-anything publishes them."""
    torch.manual_seed(5)
    torch.save(build_sam("tiny").state_dict(), folder / "sam_tiny.pth")
    return folder / "sam_tiny.pth"


def test_a_published_sam_is_adapted_with_its_encoder_frozen(
    run: Run, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []
    compute = KeptEmbeddings._compute

    def counted(kept: KeptEmbeddings, image: torch.Tensor) -> torch.Tensor:
        computed.append(kept.folder)
        return compute(kept, image)

    monkeypatch.setattr(KeptEmbeddings, "_compute", counted)
    out, file = tmp_path / "out", published(tmp_path)
    command = (main, "--data", rendered, "--out", out, "--size", "tiny", "--init", file)
    run(*command, "--epochs", 2)
    assert computed == [out / "embeddings"] * 5  # once a frame, of four draws and two epochs
    assert len(list((out / "embeddings").iterdir())) == 5
    before = torch.load(file, weights_only=True)
    after, recipe = load_checkpoint(out, ARCHITECTURE)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"mask_decoder"}
    assert recipe.initialised_from == str(file)
    assert set(recipe.data) == {str(rendered), str(file)}
    # Begun anew: what the same weights made of the same frames is still there.
    run(*command, "--epochs", 1, "--seed", 0)
    assert len(computed) == 5
    run(main, "--data", rendered, "--out", out, "--size", "tiny", "--init", out, "--epochs", 1)
    assert len(computed) == 5  # its encoder is still the published one


def test_a_frozen_run_goes_on_without_its_frozen_weights(
    run: Run, rendered: Path, tmp_path: Path, interrupt_at_step: Callable[[int], None]
) -> None:
    file = published(tmp_path)
    outs = tmp_path / "whole", tmp_path / "resumed"
    for out in outs:
        command = (main, "--data", rendered, "--out", out, "--size", "tiny", "--init", file)
        if out is outs[1]:
            interrupt_at_step(17)
            run(*command, "--epochs", 2, code=1)
            state = torch.load(out / "resume" / "last.ckpt", weights_only=True)["state_dict"]
            assert state
            assert not any("image_encoder" in name for name in state)
            interrupt_at_step(0)
        run(*command, "--epochs", 2, *(["--resume"] if out is outs[1] else []))
    one, other = (load_checkpoint(out, ARCHITECTURE)[0] for out in outs)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_kept_embeddings_are_of_these_weights_and_this_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sam = build_sam("tiny")
    image = torch.randint(256, (3, 64, 50), dtype=torch.uint8)
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(image.float())[None])
    for computed in (1, 0):
        kept = KeptEmbeddings(sam, tmp_path)
        assert torch.equal(kept(image), expected)
        assert torch.equal(kept(image), expected)
        assert kept.computed == computed
    other_image = image.clone()
    other_image[0, 0, 0] ^= 1
    assert not torch.equal(kept(other_image), expected)
    assert kept(image.reshape(3, 50, 64)).shape == expected.shape
    assert kept.computed == 2
    with torch.no_grad():
        sam.image_encoder.pos_embed[0, 0, 0, 0] += 1
    retrained = KeptEmbeddings(sam, tmp_path)
    assert not torch.equal(retrained(image), expected)
    retrained.drop_others()
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert torch.equal(KeptEmbeddings(sam, tmp_path)(image), retrained(image))


def new_training(dataset: AnnotatedDataset, **given: Any) -> SamTraining:
    settings = SamSettings(**{**SMALL, **given})
    torch.manual_seed(0)
    sam = build_sam("tiny")
    sides = Sides.of(sam)
    return SamTraining(
        sam,
        settings,
        samples=TrainingSamples(prepare_frames(dataset, sides), sides, settings),
        batches=EpochBatches(len(dataset.frames), 1, 1, 0),
        embeddings=None,
        seed=0,
    )


def test_settings_of_a_step_are_applied(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([(10, 20, 30, 40), (50, 5, 20, 30), (60, 50, 20, 20)])
    training = new_training(dataset, gradient_clip=0.5, validation_prompts=2)
    trained = [p for p in training.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    training.on_before_optimizer_step(torch.optim.SGD(trained, lr=1.0))
    norms = [p.grad.norm() for p in trained if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.5, rel=1e-3)
    with torch.no_grad():
        training.validation_step(list(training.samples.frames), 0)
    assert len(training.scores) == 2


def test_the_best_epoch_is_kept_over_an_interruption(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset([(10, 20, 30, 40)])
    first, resumed = new_training(dataset), new_training(dataset)
    for training in (first, resumed):
        monkeypatch.setattr(training, "log", lambda *_: None)

    def validate(training: SamTraining, iou: float) -> None:
        """Let the weights be told apart by what they score."""
        with torch.no_grad():
            for parameter in training.sam.parameters():
                parameter.fill_(iou)
        training.scores = [(iou, 0.5)]
        training.on_validation_epoch_end()

    for iou in (0.3, 0.6, 0.4):
        validate(first, iou)
    state = {"state_dict": dict(first.state_dict()), "epoch": 2}
    first.on_save_checkpoint(state)
    resumed.on_load_checkpoint(state)
    validate(resumed, 0.5)
    for training in (first, resumed):
        assert training.best_metrics["box_iou"] == pytest.approx(0.6)
        assert training.best_metrics["quality_error"] == pytest.approx(0.1)
        best = training.best_sam()
        assert best.keys() == training.sam.state_dict().keys()
        assert all((best[name] == 0.6).all() for name, _ in training.sam.named_parameters())


def test_true_boxes_are_scored_in_frame_pixels(make_dataset: MakeDataset) -> None:
    torch.manual_seed(0)
    sam = build_sam("tiny")
    frame = prepare_frames(make_dataset([(10, 20, 31, 43), (5, 5, 9, 9)]), Sides.of(sam))[0]
    with torch.no_grad():
        embedding = sam.image_encoder(sam.preprocess(frame.rgb().float())[None])
        logits, qualities = decode(sam, embedding, box_prompts(frame.boxes()))
        masks = sam.postprocess_masks(logits, frame.pixels.shape[1:], frame.size) > 0
        found = list(box_ious(sam, embedding, frame))
    for n, (cell, (iou, quality)) in enumerate(zip(frame.cells, found, strict=True)):
        best = int(qualities[n].argmax())
        truth = np.zeros(frame.size, bool)
        truth[cell.y : cell.y + cell.mask.shape[0], cell.x : cell.x + cell.mask.shape[1]] = True
        predicted = masks[n, best].numpy()
        assert iou == pytest.approx((predicted & truth).sum() / (predicted | truth).sum())
        assert quality == pytest.approx(float(qualities[n, best]))


def test_frames_without_cells_are_left_out_and_counted(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [], [], [(30, 20, 30, 40)], [])
    train, kept = dataset.subset({"frame_0", "frame_1", "frame_2"}), dataset.subset({"frame_3"})
    train_sam(train, kept, SamSettings(**{**SMALL, "epochs": 1}), tmp_path / "out")
    assert "2 of 3 frames to train on have no cell" in capsys.readouterr().err
    for parts, purpose in (
        ((dataset.subset({"frame_1"}), kept), "none of 1 frames to train on has a cell"),
        ((train, dataset.subset({"frame_4"})), "none of 1 frames to validate on has a cell"),
        ((train, train), "3 frames stand in training and validation"),
    ):
        with pytest.raises(ValueError, match=purpose):
            train_sam(*parts, SamSettings(**SMALL), tmp_path / "out")


def test_a_data_set_without_cells_is_refused(run: Run, tmp_path: Path) -> None:
    images, labels = tmp_path / "data" / "images", tmp_path / "data" / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(images / f"{name}.png"), np.arange(1024, dtype=np.uint16).reshape(32, 32))
        cv2.imwrite(str(labels / f"{name}.png"), np.zeros((32, 32), np.uint16))
    command = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--preset", "demo")
    assert "none of 2 frames" in run(main, *command, code=1).output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param(["--size", "vit_x"], 2, "'vit_x' is not one of", id="size"),
        pytest.param(["--epochs", "0"], 2, "greater than 0", id="epochs"),
        pytest.param(["--size", "tiny"], 1, "a frozen encoder needs weights", id="frozen, random"),
        pytest.param(["--init", "/absent.pth"], 1, "/absent.pth is no file", id="absent file"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    run: Run, rendered: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    command = ("--data", rendered, "--out", tmp_path / "out", *options)
    assert message in run(main, *command, code=code).output


def test_a_checkpoint_of_another_size_is_refused(
    run: Run, trained: Path, rendered: Path, tmp_path: Path
) -> None:
    command = ("--data", rendered, "--out", tmp_path / "out", "--init", trained)
    output = run(main, *command, "--size", "vit_b", code=1).output
    assert "is a SAM of size tiny; here vit_b is trained" in output


def test_an_unknown_size_in_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown size of SAM; choose one of: vit_h"):
        SamSettings(size="vit_x")


def test_a_training_that_diverges_is_a_message(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([(10, 20, 30, 40)], [(20, 20, 30, 40)])
    settings = SamSettings(**{**SMALL, "learning_rate": 1e30, "epochs": 1})
    with pytest.raises(ValueError, match="the training diverged: in epoch 1"):
        train_sam(dataset.subset({"frame_0"}), dataset.subset({"frame_1"}), settings, tmp_path)


def test_the_presets_are_an_adaptation_and_a_demo() -> None:
    study, demo = PRESETS["study"], PRESETS["demo"]
    assert (study.size, study.train_encoder, study.train_prompt_encoder) == ("vit_h", False, False)
    assert (demo.size, demo.train_encoder, demo.train_prompt_encoder) == ("tiny", True, True)


def test_minutes_limit_a_run(run: Run, rendered: Path, small: Path, tmp_path: Path) -> None:
    command = (main, "--data", rendered, "--out", tmp_path, "--settings", small)
    assert "0.01 minutes in epochs of" in run(*command, "--minutes", 0.01).output
    _, recipe = load_checkpoint(tmp_path, ARCHITECTURE)
    assert recipe.settings["minutes"] == 0.01
    assert "box_iou" in recipe.metrics


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
