"""The networks that the project ships: small, readable, and described by a card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks.general.result import GeneralResult, general_page
from benchmarks.harness.results import read_result
from training.checkpoint import RANDOM, load_checkpoint
from training.unet.network import ARCHITECTURE as UNET
from training.yolo.settings import ARCHITECTURE as YOLO
from training.yolo.settings import COCO, GENERAL, SHIPPED, init_folder

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "training" / "general"
MOST_BYTES = 12e6


def test_they_are_small():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


@pytest.mark.parametrize(("name", "architecture"), [("yolo", YOLO), ("unet", UNET)])
def test_a_checkpoint_is_whole(name, architecture):
    weights, recipe = load_checkpoint(FOLDER / name, architecture)
    assert recipe.class_names == ("cell",)
    assert recipe.threshold is not None
    kinds = {tensor.dtype for tensor in weights.values() if tensor.dim() > 1}
    assert kinds == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_the_yolo_knows_a_range_of_sizes():
    _, recipe = load_checkpoint(SHIPPED, YOLO)
    assert recipe.scale is not None
    least, most = recipe.scale.cell_diameters_px or (0, 0)
    assert 0 < least < 20 < 90 < most


@pytest.mark.parametrize(
    ("init", "folder"),
    [
        pytest.param(GENERAL, FOLDER / "yolo", id="shipped"),
        pytest.param(RANDOM, None, id="random"),
        pytest.param(COCO, None, id="published"),
        pytest.param("runs/mine", Path("runs/mine"), id="own"),
    ],
)
def test_where_training_starts(init, folder):
    assert init_folder(init) == folder


def test_the_card_tells_licences_and_figures():
    card = (FOLDER / "README.md").read_text()
    for word in ("CC0", "MIT", "AGPL-3.0", "not for"):
        assert word in card
    figures = read_result(ROOT / "benchmarks" / "results" / "general.json", GeneralResult)
    assert general_page(figures).strip() in card


def test_images_of_the_demo_were_not_trained_on():
    page = (ROOT / "benchmarks" / "demo" / "images" / "README.md").read_text()
    shown = re.findall(r"`([0-9a-f]{16})`", page)
    lists = ROOT / "benchmarks" / "general"
    assert len(shown) == len(list((ROOT / "benchmarks" / "demo" / "images").glob("*.png")))
    trained = (lists / "train-nuclei.txt").read_text().split()
    tested = [name for file in lists.glob("test-*.txt") for name in file.read_text().split()]
    assert not set(shown) & set(trained)
    assert set(shown) <= set(tested)
