"""One run of a YOLO: from frames to the checkpoint of its best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import click
import torch

from cytoserve.files import file_sha256
from training.checkpoint import (
    WEIGHTS_FILE,
    LearnedScale,
    Recipe,
    fill_network,
    load_checkpoint,
    new_recipe,
)
from training.datasets.annotated import AnnotatedDataset
from training.datasets.appearance import learned_appearance
from training.datasets.scale import describe_scale, diameter_range, fine_tuning_scale, measure_scale
from training.datasets.splits import split_by_frame
from training.run.command_line import read_data
from training.run.folder import RunFolder
from training.run.progress import describe_frames
from training.yolo.frames import DATA_FILE, WindowSettings, write_yolo_dataset
from training.yolo.network import fetch_coco_weights, new_network
from training.yolo.settings import (
    ARCHITECTURE,
    COCO,
    GENERAL,
    SHIPPED,
    STATE_NAME,
    YoloSettings,
    init_folder,
)
from training.yolo.trainer import YoloState, YoloTrainer, named_plainly, yolo_threshold

EPOCHS_IN_TIME = 10_000
"""Epochs of a run that is limited by its minutes, until their number is estimated."""


def train_yolo(
    data: tuple[str, ...],
    out: Path,
    settings: YoloSettings,
    *,
    one_class: bool,
    init: str,
    seed: int,
    resume: bool,
    finish: bool = False,
    pixel_sizes: tuple[float, ...] = (),
) -> Recipe:
    """Train one network and write its checkpoint to ``out``; return its recipe."""
    initial, known = _initial(init)
    dataset, hashes = read_data(data, one_class, pixel_sizes, own_pixels=settings.own_pixels)
    training, validation = split_by_frame(dataset, settings.validation_share, seed)
    scale = measure_scale(dataset, settings.network_scale)
    if settings.own_pixels:
        scale = scale.model_copy(update={"cell_diameters_px": diameter_range(dataset)})
    elif settings.network_scale is None:
        scale = fine_tuning_scale(scale, known)
    click.echo(describe_frames(training, validation))
    click.echo(describe_scale(scale))
    facts = {
        "architecture": ARCHITECTURE,
        "class_names": dataset.class_names,
        "settings": settings.model_dump(),
        "data": hashes,
        "initialised_from": _origin(init),
        "seed": seed,
        "scale": scale.model_dump(),
    }
    folder = RunFolder(out, STATE_NAME)
    folder.begin(facts, resume=resume or finish)
    if finish:
        state = YoloState.read(folder.state)
        weights, metrics = state.best, named_plainly(state.best_metrics)
    else:
        parts = training, validation
        weights, metrics = _trained(folder, settings, facts, parts, initial, resume=resume)
    network = new_network(len(dataset.class_names))
    fill_network(network, weights, str(out))
    threshold = yolo_threshold(network.eval(), validation, scale, seed)
    looks = learned_appearance(training)
    recipe = new_recipe(**facts, metrics=metrics, threshold=threshold, appearance=looks)
    folder.finish(weights, recipe)
    return recipe


def _trained(
    folder: RunFolder,
    settings: YoloSettings,
    facts: Mapping[str, Any],
    parts: tuple[AnnotatedDataset, AnnotatedDataset],
    initial: dict[str, torch.Tensor] | None,
    *,
    resume: bool,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Write the windows and train on them; return weights and metrics of the best epoch."""
    seed, windows = facts["seed"], folder.out / "windows"
    if not (resume and (windows / DATA_FILE).is_file()):
        fields = {field.name: getattr(settings, field.name) for field in fields_of(WindowSettings)}
        network_scale = facts["scale"]["network_scale"]
        chosen = WindowSettings(**fields | {"network_scale": network_scale})
        write_yolo_dataset(*parts, windows, chosen, seed)
    trainer = YoloTrainer(
        overrides=_ultralytics_settings(settings, windows / DATA_FILE, folder.out, seed),
        initial=initial,
        folder=folder,
        resume=resume,
        bf16=settings.bf16,
    )
    trainer.train()
    return trainer.best_weights, trainer.best_metrics


def _initial(init: str) -> tuple[dict[str, torch.Tensor] | None, LearnedScale | None]:
    """Return the weights to start from, None for random ones, and the scale that they know."""
    folder = init_folder(init)
    if folder is None:
        return (fetch_coco_weights() if init == COCO else None), None
    weights, recipe = load_checkpoint(folder, ARCHITECTURE)
    return weights, recipe.scale


def _origin(init: str) -> str:
    """Return ``init`` for the recipe, with a hash of the shipped weights, which may change."""
    return init if init != GENERAL else f"{init}, sha256 {file_sha256(SHIPPED / WEIGHTS_FILE)[:16]}"


def _ultralytics_settings(
    settings: YoloSettings, data: Path, out: Path, seed: int
) -> dict[str, Any]:
    """Translate the settings to ultralytics' names.

    ultralytics estimates the epochs of a run that is limited by its minutes after each of them.
    """
    epochs = settings.epochs if settings.minutes is None else EPOCHS_IN_TIME
    return {
        "model": f"{ARCHITECTURE}.yaml",
        "data": str(data),
        "project": str(out.parent.resolve()),
        "name": out.name,
        "exist_ok": True,
        "epochs": epochs,
        "time": None if settings.minutes is None else settings.minutes / 60,  # hours
        "imgsz": settings.window,
        "batch": settings.batch,
        "nbs": max(settings.samples_per_step, settings.batch),
        "optimizer": settings.optimizer,
        "lr0": settings.learning_rate,
        "mosaic": settings.mosaic,
        "close_mosaic": max(1, epochs // 10),
        "scale": settings.scale,
        "fliplr": settings.flip_probability,
        "flipud": settings.flip_probability,
        "amp": False,  # Bf16Network handles bf16 itself
        "patience": epochs,
        "seed": seed,
        "pretrained": False,
        "overlap_mask": False,  # overlapping cells keep their overlap
        "single_cls": False,
        "plots": False,
        "verbose": False,
        "max_det": 1000,
    }
