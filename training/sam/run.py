"""One run of SAM: from frames to the checkpoint of its best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from segment_anything.modeling import Sam
from torch.utils.data import DataLoader

from training.checkpoint import (
    RANDOM,
    WEIGHTS_FILE,
    CheckpointError,
    Recipe,
    hash_files,
    new_recipe,
)
from training.datasets.annotated import AnnotatedDataset
from training.datasets.splits import refuse_shared_frames
from training.run.folder import STATE_NAME, RunFolder
from training.run.lightning import EpochBatches, fit
from training.run.progress import describe_frames
from training.sam.frames import SamFrame, Sides, prepare_frames
from training.sam.network import ARCHITECTURE, KeptEmbeddings, build_sam, load_published, load_sam
from training.sam.samples import DenseSample, TrainingSample, TrainingSamples
from training.sam.settings import SamSettings
from training.sam.trainer import SamTraining

EMBEDDINGS_FOLDER = "embeddings"

Sample = TypeVar("Sample", TrainingSample, DenseSample, SamFrame)


def train_sam(
    train: AnnotatedDataset,
    validation: AnnotatedDataset,
    settings: SamSettings,
    out: Path,
    *,
    init: str = RANDOM,
    seed: int = 0,
    resume: bool = False,
    finish: bool = False,
    data: Mapping[str, str] | None = None,
) -> Recipe:
    """Train one SAM and write its checkpoint to ``out``.

    Frames without cells give no prompts: they are left out, and their number is printed.

    Args:
        train: frames to train on; cells of all classes are prompted in the same way.
        validation: other frames, used to choose the best epoch.
        settings: settings of the run.
        out: folder of the checkpoint.
        init: ``random``, a published ``.pth`` file of that size, or a checkpoint folder.
        seed: random seed of the weights, the order, the cells and their prompts.
        resume: resume an interrupted run.
        finish: train no more, and take the best epoch so far of an interrupted run.
        data: data sets and their sha256, for the recipe.

    Returns:
        The recipe that was written, with the metrics of the best epoch: ``box_iou``, the mean IoU
        of masks for true boxes, and ``quality_error``, the mean error of the predicted IoUs.

    Raises:
        ValueError: frames and settings do not fit together, or there is no cell.
        CheckpointError: the weights to start from, or the run to resume, are not available.
    """
    refuse_shared_frames(train, validation)
    train, validation = with_cells(train, "to train on"), with_cells(validation, "to validate on")
    click.echo(describe_frames(train, validation))
    torch.manual_seed(seed)
    sam = _initial_sam(settings, init)
    sides = Sides.of(sam)
    samples = TrainingSamples(prepare_frames(train, sides), sides, settings)
    loaders, batches = _loaders(
        samples,
        prepare_frames(validation, sides),
        settings,
        seed,
    )
    facts = {
        "architecture": ARCHITECTURE,
        "class_names": train.class_names,
        "settings": settings.model_dump(),
        "data": {**(data or {}), **_hash_init(init)},
        "initialised_from": init,
        "seed": seed,
    }
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    folder.begin(facts, resume=resume or finish)
    kept = None if settings.train_encoder else KeptEmbeddings(sam, out / EMBEDDINGS_FOLDER)
    training = SamTraining(
        sam, settings, samples=samples, batches=batches, embeddings=kept, seed=seed
    )
    fit(training, loaders, folder, settings, resume=resume, finish=finish)
    if kept is not None:
        kept.drop_others()
    recipe = new_recipe(**facts, metrics=training.best_metrics)
    folder.finish(training.best_sam(), recipe)
    return recipe


def with_cells(dataset: AnnotatedDataset, purpose: str) -> AnnotatedDataset:
    """Return the frames that have a cell, and print how many were left out.

    Raises:
        ValueError: no frame has a cell.
    """
    frames = tuple(frame for frame in dataset.frames if frame.cells)
    empty = len(dataset.frames) - len(frames)
    if not frames:
        raise ValueError(
            f"SAM learns from prompts for cells, and none of {len(dataset.frames)} frames "
            f"{purpose} has a cell; annotate some."
        )
    if empty:
        click.echo(
            f"{empty} of {len(dataset.frames)} frames {purpose} have no cell; they are left out",
            err=True,
        )
    return replace(dataset, frames=frames)


def _initial_sam(settings: SamSettings, init: str) -> Sam:
    size = settings.size
    if init == RANDOM:
        if not settings.train_encoder:
            raise ValueError(
                "a frozen encoder needs weights that were trained, or nothing can be learnt from "
                "it: give --init, a published .pth file or a checkpoint folder, or set "
                "train_encoder."
            )
        return build_sam(size)
    if not Path(init).is_dir():
        return load_published(Path(init), size)
    sam, recipe = load_sam(Path(init))
    if recipe.settings["size"] != size:
        raise CheckpointError(
            f"{init} is a SAM of size {recipe.settings['size']}; here {size} is trained. The whole "
            "model starts from it, so choose that size."
        )
    return sam


def _hash_init(init: str) -> dict[str, str]:
    """Hash the weights to start from, to distinguish them from others of the same name."""
    if init == RANDOM:
        return {}
    return {init: hash_files([Path(init) / WEIGHTS_FILE if Path(init).is_dir() else Path(init)])}


def _loaders(
    train: TrainingSamples, validation: tuple[SamFrame, ...], settings: SamSettings, seed: int
) -> tuple[tuple[DataLoader[Any], ...], EpochBatches]:
    batches = EpochBatches(len(train), settings.samples_per_frame, settings.batch, seed)
    return (
        DataLoader(train, batch_sampler=batches, collate_fn=_as_they_are),
        DataLoader(validation, collate_fn=_as_they_are),  # type: ignore[arg-type]
    ), batches


def _as_they_are(samples: list[Sample]) -> list[Sample]:
    """Keep a batch as a list, since frames differ in shape and in the number of prompts."""
    return samples
