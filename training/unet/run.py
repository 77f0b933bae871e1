"""One run of a U-Net: from frames or tiles to the checkpoint of its best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader

from training.checkpoint import (
    RANDOM,
    CheckpointError,
    Recipe,
    fill_network,
    hash_files,
    load_checkpoint,
    new_recipe,
)
from training.datasets.annotated import AnnotatedDataset
from training.datasets.splits import refuse_shared_frames
from training.nuclei_tiles import Tile, read_tile_index
from training.run.folder import STATE_NAME, RunFolder
from training.run.lightning import EpochBatches, fit
from training.run.progress import describe_data, describe_frames
from training.unet.frames import (
    MaskedImage,
    balancing_weights,
    foreground_share,
    prepare_frames,
    read_tiles,
    weigh_borders,
)
from training.unet.network import (
    ARCHITECTURE,
    UNet,
    build_unet,
)
from training.unet.samples import (
    BlankPixels,
    TrainingWindows,
    ValidationImages,
    blank_tile,
    blank_whole_frame,
    blanks_like,
    training_blanks,
    validation_blanks,
)
from training.unet.settings import UnetSettings
from training.unet.trainer import VALIDATION_LOSS, UnetTraining, unet_threshold

IMAGENET = "imagenet"


def train_unet(
    train: AnnotatedDataset,
    validation: AnnotatedDataset,
    settings: UnetSettings,
    out: Path,
    *,
    init: str = RANDOM,
    seed: int = 0,
    resume: bool = False,
    finish: bool = False,
    data: Mapping[str, str] | None = None,
) -> Recipe:
    """Train one U-Net of study S2 and write its checkpoint to ``out``.

    Args:
        train: frames to train on; cells of all classes are foreground.
        validation: other frames, used to choose the best epoch.
        settings: settings of the run.
        out: folder of the checkpoint.
        init: ``random``, ``imagenet`` for the encoder, or a checkpoint folder for the whole model.
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
    refuse_shared_frames(train, validation)
    click.echo(describe_frames(train, validation))
    images = prepare_frames(train), prepare_frames(validation)
    facts = _facts(settings, {}, data or {}, init, seed)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    return _train(*images, blank_whole_frame, settings, folder, facts, resume=resume, finish=finish)


def train_nuclei(
    tiles: Path,
    settings: UnetSettings,
    out: Path,
    *,
    init: str = RANDOM,
    seed: int = 0,
    resume: bool = False,
    finish: bool = False,
) -> Recipe:
    """Train one U-Net of study S3 on a folder of tiles and write its checkpoint to ``out``.

    The tiles of the test cases determine the best epoch and the learning rate, as in the study. The
    recipe's settings include ``set_name``, ``tile_size`` and ``radius`` of the tiles. See
    :func:`train_unet` for the other arguments and errors.
    """
    index = read_tile_index(tiles)
    click.echo(describe_data("tiles", (len(index.train), {}), (len(index.test), {})))
    images = _read_tiles(tiles, index.train), _read_tiles(tiles, index.test)
    files = [tiles / file for t in (*index.train, *index.test) for file in (t.image, t.mask)]
    data = {**index.data, str(tiles): hash_files(files)}
    about = {"set_name": index.set_name, "tile_size": index.tile_size, "radius": index.radius}
    facts = _facts(settings, about, data, init, seed)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    return _train(*images, blank_tile, settings, folder, facts, resume=resume, finish=finish)


def _read_tiles(folder: Path, tiles: Sequence[Tile]) -> tuple[MaskedImage, ...]:
    return read_tiles(folder, [(tile.image, tile.mask) for tile in tiles])


def _facts(
    settings: UnetSettings,
    further_settings: Mapping[str, Any],
    data: Mapping[str, str],
    init: str,
    seed: int,
) -> dict[str, Any]:
    return {
        "architecture": ARCHITECTURE,
        "class_names": (settings.class_name,),
        "settings": {**settings.model_dump(), **further_settings},
        "data": dict(data),
        "initialised_from": init,
        "seed": seed,
    }


def _train(
    train: Sequence[MaskedImage],
    validation: Sequence[MaskedImage],
    blank_pixels: BlankPixels,
    settings: UnetSettings,
    folder: RunFolder,
    facts: Mapping[str, Any],
    *,
    resume: bool,
    finish: bool,
) -> Recipe:
    seed = facts["seed"]
    torch.manual_seed(seed)
    unet = _initial_unet(settings, facts["initialised_from"])
    windows, images, batches = _datasets(train, validation, blank_pixels, settings, seed)
    shown, empty = images.batches(settings.batch)
    kept = DataLoader(images, batch_sampler=shown + empty)
    folder.begin(facts, resume=resume or finish)
    training = UnetTraining(
        unet, settings, batches=batches, validation_batches=len(shown), seed=seed
    )
    fit(
        training,
        (DataLoader(windows, batch_sampler=batches), kept),
        folder,
        settings,
        resume=resume,
        finish=finish,
        callbacks=_early_stopping(settings),
    )
    fill_network(unet, training.best_weights, str(folder.out))
    device = next(iter(training.best_weights.values())).device
    threshold = unet_threshold(unet, kept, device)
    recipe = new_recipe(**facts, metrics=training.best_metrics, threshold=threshold)
    folder.finish(training.best_weights, recipe)
    return recipe


def _initial_unet(settings: UnetSettings, init: str) -> UNet:
    unet = build_unet(settings.encoder, width=settings.width, imagenet=init == IMAGENET)
    if init in (RANDOM, IMAGENET):
        return unet
    weights, recipe = load_checkpoint(Path(init), ARCHITECTURE)
    before = recipe.settings.get("encoder")
    if before != settings.encoder:
        raise CheckpointError(
            f"{init} is a U-Net with the encoder {before}; here {settings.encoder} is trained. The "
            f"whole model starts from it, so choose that encoder."
        )
    fill_network(unet, weights, init)
    return unet


def _datasets(
    train: Sequence[MaskedImage],
    validation: Sequence[MaskedImage],
    blank_pixels: BlankPixels,
    settings: UnetSettings,
    seed: int,
) -> tuple[TrainingWindows, ValidationImages, EpochBatches]:
    """Make the training data, the validation data, and the training batches.

    Raises:
        ValueError: there is nothing to train on, to validate on, or to learn.
    """
    if not train or not validation:
        raise ValueError(
            "a U-Net needs images to train on and others to validate on; got "
            f"{len(train)} and {len(validation)}. Annotate more, or split them otherwise."
        )
    share = foreground_share(train)
    if share == 0:
        raise ValueError(f"there is no foreground in any of {len(train)} images to train on.")
    blanks = training_blanks(len(train), settings)
    draws = len(train) * settings.samples_per_frame
    background_weight = None
    if settings.border_map:
        share *= draws / (draws + blanks)  # the training data include empty frames
        background_weight = balancing_weights(share, settings.class_balance)[0]
        train = weigh_borders(train, share, settings)
        validation = weigh_borders(validation, share, settings)
    to_train, to_validate = (
        blanks_like(images, settings, blank_pixels, background_weight)
        for images in (train, validation)
    )
    empty = validation_blanks(to_validate, len(validation), settings, seed)
    return (
        TrainingWindows(train, settings, to_train),
        ValidationImages(validation, settings, empty),
        EpochBatches(len(train), settings.samples_per_frame, settings.batch, seed, blanks),
    )


def _early_stopping(settings: UnetSettings) -> list[Callback]:
    if settings.early_stopping is None:
        return []
    return [EarlyStopping(VALIDATION_LOSS, patience=settings.early_stopping)]
