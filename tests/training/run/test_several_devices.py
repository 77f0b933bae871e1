"""Training on several devices: how processes share an epoch, and real runs of two of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import load_checkpoint
from training.resnet.trainer import _BalancedSampler
from training.run.lightning import EpochBatches
from training.run.settings import ParallelSettings

ROOT = Path(__file__).parents[3]
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch):
    """Makes this process one of several, for those who share."""

    def be(number: int, of: int) -> None:
        for module in ("training.run.lightning", "training.resnet.trainer"):
            monkeypatch.setattr(f"{module}.processes", lambda: (number, of))

    return be


@pytest.mark.parametrize(
    ("images", "batch", "count"),
    [
        pytest.param(8, 2, 2, id="even"),
        pytest.param(7, 2, 2, id="one-batch-is-left"),
        pytest.param(9, 2, 3, id="a-last-image-is-left"),
        pytest.param(4, 1, 4, id="a-batch-each"),
    ],
)
def test_processes_take_turns_with_the_batches(become, images, batch, count):
    alone = list(EpochBatches(images, 1, batch, seed=3))
    shares = []
    for number in range(count):
        become(number, count)
        batches = EpochBatches(images, 1, batch, seed=3)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches) == len(alone) // count
    turns = [drawn for turn in zip(*shares, strict=True) for drawn in turn]
    assert turns == alone[: len(turns)]


def test_processes_take_turns_with_the_crops(become):
    def drawn() -> list[int]:
        sampler = _BalancedSampler([0] * 7 + [1] * 4, [7, 4], seed=1)
        sampler.set_epoch(2)
        numbers = list(sampler)
        assert len(numbers) == len(sampler)
        return numbers

    alone = drawn()
    become(0, 2)
    first = drawn()
    become(1, 2)
    second = drawn()
    assert [first, second] == [alone[:10:2], alone[1:10:2]]


def test_more_processes_than_batches_are_refused(become):
    become(0, 4)
    with pytest.raises(ValueError, match=r"has 3 batches, and 4 processes train.*--devices"):
        len(EpochBatches(3, 1, 1, seed=0))


@pytest.mark.parametrize(
    ("environment", "secondary"),
    [
        pytest.param({}, False, id="alone"),
        pytest.param({"LOCAL_RANK": "0", "NODE_RANK": "0"}, False, id="first"),
        pytest.param({"LOCAL_RANK": "1", "NODE_RANK": "0"}, True, id="second-device"),
        pytest.param({"NODE_RANK": "1"}, True, id="second-machine"),
        pytest.param({"RANK": "0", "LOCAL_RANK": "0"}, False, id="first-by-torchrun"),
        pytest.param({"RANK": "2", "LOCAL_RANK": "0"}, True, id="second-machine-by-torchrun"),
        pytest.param({"SLURM_PROCID": "1"}, True, id="second-by-slurm"),
    ],
)
def test_one_process_speaks_and_writes(monkeypatch, environment, secondary):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ParallelSettings(devices=2).is_secondary is secondary
    assert not ParallelSettings().is_secondary  # of a run that shares nothing


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python on a command that starts its other processes itself, on the CPU."""
    environment = {name: value for name, value in os.environ.items() if name not in RANKS}
    paths = {"PYTHONPATH": f"{ROOT / 'client'}:{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**environment, **paths},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_trained_by_two(done: subprocess.CompletedProcess[str], out: Path, tag: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert len(re.findall("^trained on", said, re.MULTILINE)) == 1
    assert said.count("2 processes, each on CPU") == 1
    assert said.count("epoch 2/2  ") == 1
    assert not (out / "resume").exists()
    log = EventAccumulator(str(out / "log"))
    log.Reload()
    assert len(log.Scalars(tag)) == 2


LINE = """
import json, sys
import torch
from pathlib import Path
from torch.utils.data import DataLoader
from training.run.folder import RunFolder
from training.run.lightning import BestEpochTraining, EpochBatches, fit, processes
from training.run.settings import ParallelSettings

OUT, DEVICES, BATCH = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
POINTS = torch.linspace(-1, 1, 8)


class Line(BestEpochTraining):
    def __init__(self):
        super().__init__(epochs=3, minutes=None, seed=0)
        self.slope = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        loss = ((self.slope * batch - 3 * batch) ** 2).mean()
        self.log_step(loss, len(batch))
        return loss

    def validation_step(self, batch, index):
        pass

    def on_validation_epoch_end(self):
        numbered = {name: float(number) for number, name in enumerate("abcdef")}
        self.end_epoch({**numbered, "g": float(self.slope)})

    def rank(self, metrics):
        return (metrics["g"],)

    def weights(self):
        return self.state_dict()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self):
        rank = processes()[0]
        (OUT / f"slope{rank}").write_text(f"{float(self.slope):.6f}")


class Points(torch.utils.data.Dataset):
    def __getitem__(self, draw):
        return POINTS[draw.index] if hasattr(draw, "index") else POINTS[draw]

    def __len__(self):
        return len(POINTS)


settings = ParallelSettings(devices=DEVICES)
training = Line()
folder = RunFolder(OUT / "run", "last.ckpt", quiet=settings.is_secondary)
folder.begin({}, resume=False)
batches = EpochBatches(len(POINTS), 1, BATCH, seed=0)
loaders = DataLoader(Points(), batch_sampler=batches), DataLoader(Points(), batch_size=8)
fit(training, loaders, folder, settings, resume=False)
(OUT / "metrics.json").write_text(json.dumps(training.best_metrics))
"""
"""A line through eight points, without anything that depends on the batch but the gradient."""


def test_processes_share_their_gradients(tmp_path: Path) -> None:
    """Two processes with batches of two do what one does with batches of four."""
    (tmp_path / "line.py").write_text(LINE)
    slopes = {}
    for devices, batch in ((1, 4), (2, 2)):
        out = tmp_path / f"{devices}"
        out.mkdir()
        done = python(tmp_path / "line.py", out, devices, batch)
        assert done.returncode == 0, done.stderr
        slopes[devices] = [file.read_text() for file in sorted(out.glob("slope*"))]
        metrics = json.loads((out / "metrics.json").read_text())
        log = EventAccumulator(str(out / "run" / "log"))
        log.Reload()
        logged = {name: log.Scalars(f"validation/{name}")[-1].value for name in metrics}
        assert logged == pytest.approx(metrics)
    assert len(slopes[2]) == 2
    assert set(slopes[2]) == set(slopes[1])
    assert float(slopes[1][0]) > 0.5


UNET = {
    "encoder": "U-Net",
    "width": 4,
    "resolution": "64x64",
    "batch": 2,
    "samples_per_frame": 4,
    "epochs": 2,
}


@pytest.mark.slow
def test_two_processes_train_one_network(rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({**UNET, "mode": "crop"}))
    words = (
        "training.unet",
        "glioma",
        "--data",
        rendered,
        "--settings",
        tmp_path / "settings.yaml",
    )
    done = python("-m", *words, "--out", tmp_path / "two", "--devices", 2)
    assert_trained_by_two(done, tmp_path / "two", "train/loss")
    weights, recipe = load_checkpoint(tmp_path / "two", "unet")
    assert recipe.settings["devices"] == 2
    assert recipe.threshold is not None
    assert all(tensor.isfinite().all() for tensor in weights.values())
    steps = re.findall(r"2 epochs of (\d+) steps", done.stderr)
    draws = 4 * 4  # of four frames, and some of empty ones
    assert int(steps[0]) == (draws + round(recipe.settings["blank_share"] * draws)) // 2 // 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "settings"),
    [
        pytest.param(("training.resnet", "--crops"), {"epochs": 2, "batch": 4}, id="resnet"),
        pytest.param(
            ("training.maskrcnn", "--data"),
            {
                "epochs": 2,
                "min_size": 64,
                "max_size": 128,
                "width": 8,
                "normalisation": "group",
                "proposals": 50,
                "batch": 1,
            },
            id="maskrcnn",
        ),
        pytest.param(
            ("training.sam", "--preset", "demo", "--data"),
            {"epochs": 2, "dense_epochs": 1, "samples_per_frame": 1},
            id="sam",
        ),
    ],
)
def test_every_family_trains_in_two_processes(rendered, crops, tmp_path, words, settings):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    data = crops if words[0] == "training.resnet" else rendered
    common = ("--settings", tmp_path / "settings.yaml", "--out", tmp_path / "out", "--devices", 2)
    done = python("-m", *words, data, *common)
    assert_trained_by_two(done, tmp_path / "out", "train/learning_rate")
