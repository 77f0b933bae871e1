"""Checkpoints: written whole, refused by name."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.checkpoint import (
    CheckpointError,
    ChosenThreshold,
    LearnedScale,
    Recipe,
    fill_network,
    hash_files,
    load_checkpoint,
    new_recipe,
    save_checkpoint,
)

ROOMS = ("benchmarks", "client", "docker", "export", "server", "training")


@pytest.fixture
def recipe() -> Recipe:
    return new_recipe(
        architecture="resnet50",
        class_names=("a", "b"),
        settings={"epochs": 1},
        data={"cells": "0" * 64},
        initialised_from="random",
        seed=0,
        metrics={"accuracy": 0.5},
        scale=LearnedScale(
            network_scale=0.5, cell_diameter_px=30, largest_cell_px=80, pixel_size_um=0.4
        ),
        threshold=ChosenThreshold(
            value=0.4,
            metric="F1",
            thresholds=(0.2, 0.4),
            precision=(0.5, 1),
            recall=(1, 0.9),
            best=(0.7, 0.95),
        ),
    )


@pytest.fixture
def checkpoint(tmp_path: Path, recipe: Recipe) -> Path:
    save_checkpoint(tmp_path / "checkpoint", {"weight": torch.arange(6.0).view(2, 3)}, recipe)
    return tmp_path / "checkpoint"


def test_comes_back_as_it_was_written(checkpoint: Path, recipe: Recipe) -> None:
    weights, read = load_checkpoint(checkpoint, "resnet50")
    assert torch.equal(weights["weight"], torch.arange(6.0).view(2, 3))
    assert read == recipe
    assert sorted(p.name for p in checkpoint.iterdir()) == ["model.safetensors", "recipe.json"]


def test_a_recipe_of_an_earlier_version_has_no_scale_and_no_threshold(checkpoint: Path) -> None:
    facts = json.loads((checkpoint / "recipe.json").read_text())
    del facts["scale"], facts["threshold"]
    (checkpoint / "recipe.json").write_text(json.dumps(facts))
    _, read = load_checkpoint(checkpoint, "resnet50")
    assert (read.scale, read.threshold) == (None, None)


def test_others_may_read_it(checkpoint: Path) -> None:
    """A server under another account reads what a training wrote."""
    mask = os.umask(0)
    os.umask(mask)
    assert (checkpoint / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_recipe_tells_versions_and_command(recipe: Recipe) -> None:
    assert {"python", "torch", "ultralytics"} <= set(recipe.versions)
    assert recipe.command[:2] == ("python", "-m")
    assert recipe.created.endswith("+00:00")


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def drop_a_field(folder: Path) -> None:
    facts = json.loads((folder / "recipe.json").read_text())
    del facts["class_names"]
    (folder / "recipe.json").write_text(json.dumps(facts))


def no_scale_at_all(folder: Path) -> None:
    facts = json.loads((folder / "recipe.json").read_text())
    facts["scale"]["network_scale"] = 0
    (folder / "recipe.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda f: (f / "recipe.json").unlink(), r"recipe\.json is absent", id="no recipe"
        ),
        pytest.param(
            lambda f: (f / "model.safetensors").unlink(),
            r"model\.safetensors is absent",
            id="no weights",
        ),
        pytest.param(
            truncate_weights, r"model\.safetensors is damaged.*copy it again", id="truncated"
        ),
        pytest.param(
            lambda f: (f / "model.safetensors").write_text("weights"),
            r"model\.safetensors is damaged",
            id="text for weights",
        ),
        pytest.param(
            lambda f: (f / "recipe.json").write_text("{"),
            r"recipe\.json is damaged:\n  contents: Invalid JSON",
            id="no JSON",
        ),
        pytest.param(
            lambda f: (f / "recipe.json").write_bytes(b"\xff\xfe\x00"),
            r"recipe\.json is damaged",
            id="no text",
        ),
        pytest.param(
            drop_a_field, r"recipe\.json is damaged:\n  class_names: Field required$", id="no names"
        ),
        pytest.param(
            no_scale_at_all,
            r"recipe\.json is damaged:\n  scale\.network_scale: .*greater than 0, given: 0$",
            id="a scale of 0",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_file(
    checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint, "resnet50")


def test_a_checkpoint_of_another_network_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="of resnet50; here yolo11n-seg is needed"):
        load_checkpoint(checkpoint, "yolo11n-seg")


def test_weights_that_do_not_fit_are_refused(checkpoint: Path) -> None:
    weights, _ = load_checkpoint(checkpoint, "resnet50")
    with pytest.raises(CheckpointError, match=r"somewhere does not fit the network(.|\n)*size mis"):
        fill_network(torch.nn.Linear(4, 2, bias=False), weights, "somewhere")


def test_the_hash_tells_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    whole = hash_files([one, two])
    assert whole == hash_files([two, one])
    one.write_text("2")
    two.write_text("1")
    assert hash_files([one, two]) != whole


def calls(source: str, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name)
    ]


def reads_pickle(source: str) -> bool:
    """Whether code may read an arbitrary pickle."""
    imported = [
        name.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*node.names, ast.alias(getattr(node, "module", None) or "")]
    ]
    if {"pickle", "dill", "joblib", "cloudpickle"} & {name.split(".")[0] for name in imported}:
        return True
    keywords = [
        {k.arg: ast.unparse(k.value) for k in call.keywords}
        for name in ("torch.load", ".fit", "get_state_dict")
        for call in calls(source, name)
        if name != ".fit" or any(k.arg == "ckpt_path" for k in call.keywords)
    ]
    return any(k.get("weights_only") != "True" for k in keywords) or "allow_pickle=True" in source


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "trainer.fit(module, ckpt_path=last)",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert reads_pickle(source)


def test_no_room_reads_pickle(pytestconfig: pytest.Config) -> None:
    files = [file for room in ROOMS for file in (pytestconfig.rootpath / room).rglob("*.py")]
    assert len(files) > 20
    assert [str(file) for file in files if reads_pickle(file.read_text())] == []
