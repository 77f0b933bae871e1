"""Training of YOLO11n-seg, through its command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import load_checkpoint, save_checkpoint
from training.datasets.readers import read_annotated
from training.datasets.scale import measure_scale
from training.evaluation import THRESHOLDS
from training.rendered import RenderSettings
from training.yolo.__main__ import main
from training.yolo.frames import WindowSettings
from training.yolo.network import load_network
from training.yolo.settings import ARCHITECTURE, SHIPPED, YoloSettings
from training.yolo.trainer import CentreMasks, YoloState, YoloTrainer, named_plainly

Run = Callable[..., Any]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def logged_epochs(folder: Path, tag: str) -> list[int]:
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    return [event.step for event in log.Scalars(tag)]


def test_general_makes_one_class(general: Path) -> None:
    network, recipe = load_network(general)
    assert recipe.class_names == ("cell",)
    assert network.names == {0: "cell"}
    with torch.inference_mode():
        predictions = network(torch.zeros(1, 3, 64, 64))[0]
    assert predictions[0].shape[1] == 4 + 1 + 32


def test_the_folder_holds_the_checkpoint_the_log_and_nothing_pickled(general: Path) -> None:
    assert files(general) == {
        "args.yaml",
        "log",
        "model.safetensors",
        "recipe.json",
        "threshold.png",
        "windows",
    }
    assert {p.suffix for p in general.rglob("*") if p.is_file() and p.parent.name != "log"} == {
        ".json",
        ".png",
        ".safetensors",
        ".txt",
        ".yaml",
    }
    assert logged_epochs(general, "train/box_loss") == [1, 2]
    assert logged_epochs(general, "metrics/mAP50(M)") == [1, 2]


def test_the_recipe_tells_how_it_was_made(
    general: Path, rendered: Path, yolo_settings: Path
) -> None:
    _, recipe = load_checkpoint(general, ARCHITECTURE)
    assert list(recipe.data) == [str(rendered)]
    assert recipe.settings.items() >= yaml.safe_load(yolo_settings.read_text()).items()
    assert recipe.seed == 0
    assert recipe.initialised_from == "random"
    assert {"box mAP50", "mask mAP50", "validation mask loss"} <= recipe.metrics.keys()
    assert not [name for name in recipe.metrics if "/" in name or "(" in name]


def test_metrics_of_an_interrupted_run_of_an_earlier_version_are_renamed() -> None:
    before = {"metrics/mAP50-95(M)": 0.25, "val/seg_loss": 1.5, "fitness": 0.5}
    after = {"mask mAP50-95": 0.25, "validation mask loss": 1.5, "fitness": 0.5}
    assert named_plainly(before) == after == named_plainly(after)


def test_the_recipe_holds_scale_appearance_and_threshold(general: Path, rendered: Path) -> None:
    _, recipe = load_checkpoint(general, ARCHITECTURE)
    dataset = read_annotated(rendered)
    assert recipe.scale == measure_scale(dataset)
    assert recipe.scale.pixel_size_um == RenderSettings(mean_diameter=24).pixel_um
    assert recipe.appearance is not None
    assert recipe.appearance.kinds == ("grey",)
    least, most = recipe.appearance.background
    assert 0.3 < least <= most < 0.7  # cells in phase contrast are brighter and darker
    assert recipe.threshold is not None
    assert recipe.threshold.metric == "F1"
    assert recipe.threshold.value in THRESHOLDS


def test_windows_are_cut_as_the_settings_say(general: Path) -> None:
    _, recipe = load_checkpoint(general, ARCHITECTURE)
    names = [path.stem for path in (general / "windows" / "images" / "train").iterdir()]
    blank = [name for name in names if name.startswith("blank_")]
    background = [name for name in names if "_background_" in name]
    drawn = len(names) - len(blank) - len(background)
    frames = 4  # of five, one is validated on
    assert drawn == frames * recipe.settings["samples_per_frame"]
    assert len(background) <= frames * (0.15 * recipe.settings["samples_per_frame"] + 1)
    assert len(blank) == round(recipe.settings["blank_share"] * (drawn + len(background)))


def test_window_settings_are_those_of_the_training() -> None:
    assert {field.name for field in fields(WindowSettings)} < YoloSettings.model_fields.keys()


@pytest.mark.parametrize("shipped", [False, True], ids=["own", "shipped-by-default"])
def test_fine_tuning_keeps_the_classes_and_starts_from_the_general_network(
    run: Run,
    general: Path,
    rendered: Path,
    yolo_settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shipped: bool,
) -> None:
    started_from: dict[str, torch.Tensor] = {}
    get_model = YoloTrainer.get_model

    def watch(trainer: YoloTrainer, *args: Any, **options: Any) -> Any:
        network = get_model(trainer, *args, **options)
        started_from.update({k: v.clone() for k, v in network.state_dict().items()})
        return network

    monkeypatch.setattr(YoloTrainer, "get_model", watch)
    out = tmp_path / "targets"
    run(
        *(main, "fine-tune", "--data", rendered, "--out", out),
        *(() if shipped else ("--init", general)),
        *("--settings", yolo_settings, "--epochs", 1, "--pixel-size", 0.25),
    )
    _, recipe = load_network(out)
    assert recipe.class_names == ("spread", "round")
    assert recipe.scale.pixel_size_um == 0.25
    weights, known = load_checkpoint(SHIPPED if shipped else general, ARCHITECTURE)
    if shipped:
        assert recipe.initialised_from.startswith("general, sha256 ")
        assert recipe.scale.network_scale == known.scale.network_scale  # it knows such cells
    else:
        assert recipe.initialised_from == str(general)
    same = {
        k for k, v in weights.items() if torch.equal(started_from[k], v.to(started_from[k].dtype))
    }
    # Where one class became two, the last layer of each class head is new.
    assert {k.rsplit(".", 2)[0] for k in weights.keys() - same} == {
        f"model.23.cv3.{level}" for level in range(3)
    }


@pytest.mark.parametrize(
    ("samples_per_step", "batches_per_step"),
    [
        pytest.param(8, 1, id="a step a batch"),
        pytest.param(16, 2, id="two batches a step"),
        pytest.param(4, 1, id="fewer windows than a batch"),
    ],
)
def test_batches_are_added_up_to_a_step(
    run: Run,
    rendered: Path,
    yolo_settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    samples_per_step: int,
    batches_per_step: int,
) -> None:
    settings = yaml.safe_load(yolo_settings.read_text())
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({**settings, "batch": 8, "samples_per_step": samples_per_step}))
    seen: list[tuple[int, int]] = []
    final_eval = YoloTrainer.final_eval

    def count(trainer: YoloTrainer) -> None:
        seen.append((len(trainer.train_loader), trainer.ema.updates))
        for loader in (trainer.train_loader, trainer.test_loader):
            assert isinstance(loader.dataset.transforms.transforms[-1], CentreMasks)
        final_eval(trainer)

    monkeypatch.setattr(YoloTrainer, "final_eval", count)
    # A single epoch has no warm-up, in which ever more batches make a step.
    command = (main, "general", "--data", rendered, "--out", tmp_path / "run", "--epochs", 1)
    run(*command, "--settings", file)
    [(batches, steps)] = seen
    assert batches >= 2
    assert steps == batches // batches_per_step


def test_an_interrupted_run_goes_on_to_the_same_weights(
    run: Run,
    general: Path,
    rendered: Path,
    yolo_settings: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
) -> None:
    out = tmp_path / "resumed"
    command = (main, "general", "--data", rendered, "--out", out, "--settings", yolo_settings)
    interrupt_at_step(2)
    output = run(*command, code=1).output
    assert "interrupted" in output
    assert "--resume" in output
    assert "recipe.json" not in files(out)
    windows = {p: p.stat().st_mtime_ns for p in (out / "windows").rglob("*.png")}

    interrupt_at_step(0)
    run(*command, "--resume")
    assert {p: p.stat().st_mtime_ns for p in (out / "windows").rglob("*.png")} == windows
    assert logged_epochs(out, "train/box_loss") == [1, 2]
    resumed, recipe = load_checkpoint(out, ARCHITECTURE)
    whole, whole_recipe = load_checkpoint(general, ARCHITECTURE)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert recipe.metrics == whole_recipe.metrics
    assert (recipe.scale, recipe.threshold) == (whole_recipe.scale, whole_recipe.threshold)
    assert files(out) == files(general)
    assert "no interrupted run" in run(*command, "--resume", code=1).output


def test_a_run_cut_off_after_its_last_epoch_is_finished_by_resuming(
    run: Run,
    rendered: Path,
    yolo_settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "late"
    command = (
        *(main, "general", "--data", rendered, "--out", out),
        *("--settings", yolo_settings, "--epochs", 1),
    )

    def press_ctrl_c(trainer: YoloTrainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(YoloTrainer, "final_eval", press_ctrl_c)
        run(*command, code=1)
    best = load_file(out / "resume" / "state.safetensors")
    run(*command, "--resume")
    weights, _ = load_checkpoint(out, ARCHITECTURE)
    assert all(torch.equal(weights[name], best[f"best.{name}"]) for name in weights)

    # A damaged state is refused by name.
    with monkeypatch.context() as patch:
        patch.setattr(YoloTrainer, "final_eval", press_ctrl_c)
        run(*command, code=1)
    (out / "resume" / "state.safetensors").write_bytes(b"half")
    assert "state.safetensors is damaged" in run(*command, "--resume", code=1).output


def test_the_best_epoch_of_an_interrupted_run_is_finished(
    run: Run,
    rendered: Path,
    yolo_settings: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
) -> None:
    out = tmp_path / "finished"
    command = (main, "general", "--data", rendered, "--out", out, "--settings", yolo_settings)
    assert "no interrupted run" in run(*command, "--finish", code=1).output
    interrupt_at_step(2)
    assert "--finish" in run(*command, code=1).output
    best = load_file(out / "resume" / "state.safetensors")
    assert "epoch 2" not in run(*command, "--finish").output
    weights, recipe = load_checkpoint(out, ARCHITECTURE)
    assert all(torch.equal(weights[name], best[f"best.{name}"]) for name in weights)
    assert "mask mAP50" in recipe.metrics
    assert recipe.threshold is not None
    assert not (out / "resume").exists()


def test_minutes_limit_a_run(run: Run, rendered: Path, yolo_settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "timed"
    output = run(
        *(main, "general", "--data", rendered, "--out", out),
        *("--settings", yolo_settings, "--minutes", 0.02),
    ).output
    assert "0.02 minutes in epochs of" in output
    _, recipe = load_checkpoint(out, ARCHITECTURE)
    assert recipe.settings["minutes"] == 0.02
    assert "mask mAP50" in recipe.metrics


def test_a_run_of_minutes_is_resumed_for_those_that_are_left(
    run: Run,
    rendered: Path,
    yolo_settings: Path,
    tmp_path: Path,
    interrupt_at_step: Callable[[int], None],
) -> None:
    out = tmp_path / "timed"
    command = (
        *(main, "general", "--data", rendered, "--out", out),
        *("--settings", yolo_settings, "--minutes", 0.5),
    )
    interrupt_at_step(3)  # a step an epoch
    run(*command, code=1)
    # As if it had taken almost all of them.
    state = YoloState.read(out / "resume" / "state.safetensors")
    assert state.epoch == 1
    assert state.seconds > 0
    replace(state, seconds=29.9).write(out / "resume" / "state.safetensors")
    interrupt_at_step(0)
    assert "of them done" in run(*command, "--resume").output
    assert logged_epochs(out, "train/box_loss") == [1, 2, 3]


def test_another_seed_makes_other_weights(
    run: Run, general: Path, rendered: Path, yolo_settings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    run(
        *(main, "general", "--data", rendered, "--out", out, "--seed", 1),
        *("--settings", yolo_settings, "--epochs", 1),
    )
    name = "model.0.conv.weight"
    one, other = (load_file(folder / "model.safetensors")[name] for folder in (general, out))
    assert not torch.equal(one, other)


def test_divergence_is_reported(
    run: Run, general: Path, rendered: Path, yolo_settings: Path, tmp_path: Path
) -> None:
    weights, recipe = load_checkpoint(general, ARCHITECTURE)
    weights["model.0.conv.weight"][:] = float("inf")
    save_checkpoint(tmp_path / "wild", weights, recipe)
    out = tmp_path / "out"
    output = run(
        *(main, "general", "--data", rendered, "--out", out, "--settings", yolo_settings),
        *("--init", tmp_path / "wild"),
        code=1,
    ).output
    assert "training diverged: the losses of epoch 1" in output
    assert "lower learning_rate" in output
    assert files(out) == {"args.yaml", "log", "resume", "windows"}
    assert files(out / "resume") == {"run.json"}


def test_cells_nowhere_are_refused(
    run: Run, rendered: Path, yolo_settings: Path, tmp_path: Path
) -> None:
    table = json.loads((rendered / "instances.json").read_text())
    table["annotations"] = []
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "images").symlink_to(rendered / "images")
    (tmp_path / "empty" / "instances.json").write_text(json.dumps(table))
    output = run(
        *(main, "general", "--data", tmp_path / "empty", "--out", tmp_path / "out"),
        *("--settings", yolo_settings),
        code=1,
    ).output
    assert "none of the 5 frames has a cell" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--init", "nowhere"], "recipe.json is absent", id="no checkpoint"),
        pytest.param(["--resume"], "no interrupted run to resume", id="nothing to resume"),
        pytest.param(["--window", "100"], "window: .*multiple of 32", id="window"),
        pytest.param(["--seed", "-1"], "--seed", id="seed"),
    ],
)
def test_wrong_options_are_refused(
    run: Run, rendered: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code = 2 if arguments[0] in ("--window", "--seed") else 1
    output = run(
        main, "general", "--data", rendered, "--out", tmp_path / "out", *arguments, code=code
    ).output
    assert re.search(message, output)
