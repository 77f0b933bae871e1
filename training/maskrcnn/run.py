"""One run of a Mask R-CNN: from frames to the checkpoint of its best epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.data import DataLoader
from torchvision.models.detection import MaskRCNN

from training.checkpoint import (
    RANDOM,
    CheckpointError,
    Recipe,
    fill_network,
    load_checkpoint,
    new_recipe,
)
from training.datasets.annotated import AnnotatedDataset
from training.datasets.appearance import learned_appearance
from training.datasets.scale import describe_scale, measure_scale
from training.datasets.splits import refuse_shared_frames
from training.maskrcnn.frames import (
    TrainingInstances,
    ValidationInstances,
    collate,
    prepare_instances,
    study_scale,
)
from training.maskrcnn.network import (
    ARCHITECTURE,
    build_maskrcnn,
    fill_all_but_predictors,
    read_network_settings,
)
from training.maskrcnn.settings import MaskrcnnSettings, NetworkSettings
from training.maskrcnn.trainer import MaskrcnnTraining, maskrcnn_threshold
from training.run.folder import STATE_NAME, RunFolder
from training.run.lightning import EpochBatches, fit
from training.run.progress import describe_frames

COCO = "coco"
BACKBONE_STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")
"""Stages of the backbone, the deepest first."""

_log = logging.getLogger(__name__)


def train_maskrcnn(
    train: AnnotatedDataset,
    validation: AnnotatedDataset,
    settings: MaskrcnnSettings,
    out: Path,
    *,
    init: str = RANDOM,
    seed: int = 0,
    resume: bool = False,
    finish: bool = False,
    data: Mapping[str, str] | None = None,
) -> Recipe:
    """Train one Mask R-CNN and write its checkpoint to ``out``.

    Args:
        train: frames to train on, including those without cells.
        validation: other frames of the same classes, used to choose the best epoch.
        settings: settings of the run.
        out: folder of the checkpoint.
        init: ``random``, ``coco``, or a checkpoint folder.
        seed: random seed of the weights, the order, the windows and their augmentation.
        resume: resume an interrupted run.
        finish: train no more, and take the best epoch so far of an interrupted run.
        data: data sets and their sha256, for the recipe.

    Returns:
        The recipe that was written, with the metrics of the best epoch.

    Raises:
        ValueError: frames, settings and split do not fit together.
        CheckpointError: the weights to start from, or the run to resume, are not available.
    """
    _check(train, validation)
    network_scale = settings.network_scale or study_scale(train, settings)
    scale = measure_scale(train, network_scale)
    click.echo(describe_frames(train, validation))
    click.echo(describe_scale(scale))
    facts = {
        "architecture": ARCHITECTURE,
        "class_names": train.class_names,
        "settings": settings.model_dump(),
        "data": dict(data or {}),
        "initialised_from": init,
        "seed": seed,
        "scale": scale.model_dump(),
    }
    torch.manual_seed(seed)
    network = _initial_network(train.class_names, settings, init)
    loaders, batches = _loaders(train, validation, settings, scale.network_scale, seed)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    folder.begin(facts, resume=resume or finish)
    training = MaskrcnnTraining(network, settings, batches=batches, seed=seed)
    fit(training, loaders, folder, settings, resume=resume, finish=finish)
    best = _network(train.class_names, settings)
    fill_network(best, training.best_weights, str(out))
    threshold = maskrcnn_threshold(best, validation, scale, seed)
    recipe = new_recipe(
        **facts,
        metrics=training.best_metrics,
        threshold=threshold,
        appearance=learned_appearance(train),
    )
    folder.finish(training.best_weights, recipe)
    return recipe


def _check(train: AnnotatedDataset, validation: AnnotatedDataset) -> None:
    """Check that there is something to train on, and other frames to validate on."""
    if train.class_names != validation.class_names:
        raise ValueError(
            "frames to validate on must have the classes of those to train on: "
            f"{', '.join(train.class_names)}; they have {', '.join(validation.class_names)}."
        )
    refuse_shared_frames(train, validation)
    if not train.frames or not validation.frames:
        raise ValueError(
            "a Mask R-CNN needs frames to train on and others to validate on; got "
            f"{len(train.frames)} and {len(validation.frames)}. Annotate more, or split them "
            "otherwise."
        )
    for use, dataset in (("train", train), ("validate", validation)):
        if not any(frame.cells for frame in dataset.frames):
            raise ValueError(
                f"there is no cell in any of {len(dataset.frames)} frames to {use} on; annotate "
                "some."
            )


def _initial_network(
    class_names: tuple[str, ...], settings: MaskrcnnSettings, init: str
) -> MaskRCNN:
    network = _network(class_names, settings, coco=init == COCO)
    if init not in (RANDOM, COCO):
        _fill_from_checkpoint(network, class_names, settings, Path(init))
    if init != RANDOM:
        _freeze(network, settings.trainable_levels)
    return network


def _network(
    class_names: tuple[str, ...], settings: MaskrcnnSettings, coco: bool = False
) -> MaskRCNN:
    shape = {name: getattr(settings, name) for name in NetworkSettings.model_fields}
    return build_maskrcnn(len(class_names), **shape, coco=coco)


def _fill_from_checkpoint(
    network: MaskRCNN, class_names: tuple[str, ...], settings: NetworkSettings, init: Path
) -> None:
    weights, recipe = load_checkpoint(init, ARCHITECTURE)
    before = read_network_settings(recipe, init)
    for name in ("width", "normalisation"):
        if getattr(before, name) != getattr(settings, name):
            raise CheckpointError(
                f"{init} is a network with {name} {getattr(before, name)}; here {name} "
                f"{getattr(settings, name)} is trained. Choose the {name} of the one to start from."
            )
    if len(recipe.class_names) == len(class_names) == 1 or recipe.class_names == class_names:
        fill_network(network, weights, str(init))
        return
    _log.warning(
        "%s tells apart %s; for %s the layers that tell classes are trained from random weights.",
        init,
        ", ".join(recipe.class_names),
        ", ".join(class_names),
    )
    fill_all_but_predictors(network, weights, str(init))


def _freeze(network: MaskRCNN, trainable_levels: int) -> None:
    """Freeze the first levels of the backbone."""
    trained = BACKBONE_STAGES[:trainable_levels]
    for name, parameter in network.backbone.body.named_parameters():
        if trainable_levels < len(BACKBONE_STAGES) and not name.startswith(trained):
            parameter.requires_grad_(False)


def _loaders(
    train: AnnotatedDataset,
    validation: AnnotatedDataset,
    settings: MaskrcnnSettings,
    network_scale: float,
    seed: int,
) -> tuple[tuple[DataLoader[Any], ...], EpochBatches]:
    """Make the loaders: batches to train on, and single images to validate on."""
    examples = TrainingInstances(prepare_instances(train, network_scale), settings)
    kept = ValidationInstances(prepare_instances(validation, network_scale), settings)
    batches = EpochBatches(
        len(examples), settings.samples_per_frame, settings.batch, seed, examples.empty
    )
    # Separate generators, since loaders draw from them: those that choose boxes stay untouched.
    return (
        DataLoader(
            examples, batch_sampler=batches, collate_fn=collate, generator=torch.Generator()
        ),
        DataLoader(kept, batch_size=1, collate_fn=collate, generator=torch.Generator()),
    ), batches
