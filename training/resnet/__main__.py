"""Train ResNet50 to classify cells, by the protocol of study S1: 150 epochs on crops.

\b
    python -m training.crops  --data data/target --out runs/crops
    python -m training.resnet --crops runs/crops --out runs/classifier

`--init imagenet` starts from torchvision's ImageNet weights, if they can be fetched. `--preset
demo` is the same in fewer epochs. All classes are sampled equally often, however rare they are.
`--resume` continues an interrupted run. OUT is the checkpoint; OUT/log is for TensorBoard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cv2
import torch
import torchvision
from pydantic import BaseModel, ConfigDict, Field
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from training.checkpoint import (
    RANDOM,
    CheckpointError,
    Recipe,
    hash_files,
    load_checkpoint,
    new_recipe,
)
from training.crops import Crop, CropIndex, read_index
from training.resnet.network import ARCHITECTURE, CellClassifier
from training.resnet.trainer import ClassifierTraining
from training.run.command_line import choose_settings, run_options
from training.run.folder import RunFolder
from training.run.lightning import STATE_NAME, fit


class ResnetSettings(BaseModel):
    """Settings of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(150, gt=0)
    """Number of epochs; each draws as many crops as there are."""
    batch: int = Field(32, gt=1)
    """Number of crops per step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of AdamW at the start; it follows a cosine that ends at zero."""
    weight_decay: float = Field(0.01, ge=0)
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


PRESETS = {"study": ResnetSettings(), "demo": ResnetSettings(epochs=9)}


def _read_crops(folder: Path, crops: tuple[Crop, ...]) -> TensorDataset:
    """Read crops uint8 ``[N, 3, S, S]`` RGB and class ids int64 ``[N]``."""
    pixels = []
    for crop in crops:
        image = cv2.imread(str(folder / crop.file), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{folder / crop.file} cannot be read; cut the crops again.")
        pixels.append(torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1))
    return TensorDataset(torch.stack(pixels), torch.tensor([crop.class_id for crop in crops]))


class _BalancedSampler(WeightedRandomSampler):
    """Draws every class equally often. In a resumed run, an epoch draws the same crops."""

    def __init__(self, class_ids: list[int], counts: list[int], seed: int) -> None:
        generator = torch.Generator()
        weights = [1 / counts[class_id] for class_id in class_ids]
        super().__init__(weights, len(class_ids), generator=generator)
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before the epoch's first batch is drawn."""
        self.generator.manual_seed(self.seed + epoch)


def _loaders(folder: Path, index: CropIndex, batch: int, seed: int) -> tuple[DataLoader[Any], ...]:
    """Make training batches with equally frequent classes, and validation batches.

    Raises:
        ValueError: a class has no crop to train on, or there is nothing to validate on.
    """
    counts = [
        sum(crop.class_id == k for crop in index.train) for k in range(len(index.class_names))
    ]
    if not all(counts) or not index.validation:
        missing = [n for n, c in zip(index.class_names, counts, strict=True) if not c]
        raise ValueError(
            f"{folder}: every class needs crops to train on and some crop must be left to "
            f"validate; without training crops: {', '.join(missing) or 'none'}, validation crops: "
            f"{len(index.validation)}. Annotate more frames or choose another --seed of the split."
        )
    training = _read_crops(folder, index.train)
    sampler = _BalancedSampler([crop.class_id for crop in index.train], counts, seed)
    # Batch normalisation learns nothing useful from a last batch of a single crop.
    drop_last = len(training) > batch and len(training) % batch == 1
    return (
        # A separate generator, since a loader draws from it: the augmentation's stays untouched.
        DataLoader(
            training, batch, sampler=sampler, drop_last=drop_last, generator=torch.Generator()
        ),
        DataLoader(_read_crops(folder, index.validation), batch),
    )


def _initialise(classifier: CellClassifier, init: str) -> None:
    """Load ImageNet's weights or those of a checkpoint folder into all layers but the head."""
    if init == "imagenet":
        weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
        try:
            state = weights.get_state_dict(check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: its hash is not the published one
            raise CheckpointError(
                f"ImageNet weights are at {weights.url}, which cannot be fetched from here "
                f"({error}). Put the file into {torch.hub.get_dir()}/checkpoints by hand, or start "
                "from random weights: omit --init."
            ) from error
        state = {f"resnet.{name}": tensor for name, tensor in state.items()}
    else:
        state, _ = load_checkpoint(Path(init), ARCHITECTURE)
    own = classifier.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    classifier.load_state_dict(fitting, strict=False)


def train(
    crops: Path, out: Path, settings: ResnetSettings, *, init: str, seed: int, resume: bool
) -> Recipe:
    """Train one classifier and write its checkpoint to ``out``; return its recipe."""
    index = read_index(crops)
    facts = {
        "architecture": ARCHITECTURE,
        "class_names": index.class_names,
        "settings": settings.model_dump(),
        "data": {**index.data, str(crops): hash_files(crops / c.file for c in _all_crops(index))},
        "initialised_from": init,
        "seed": seed,
        "scale": None if index.scale is None else index.scale.model_dump(),
    }
    torch.manual_seed(seed)
    classifier = CellClassifier(len(index.class_names))
    if init != RANDOM:
        _initialise(classifier, init)
    loaders = _loaders(crops, index, settings.batch, seed)
    folder = RunFolder(out, STATE_NAME)
    folder.begin(facts, resume=resume)
    training = ClassifierTraining(
        classifier,
        len(index.class_names),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        seed=seed,
    )
    fit(training, loaders, folder, bf16=settings.bf16, resume=resume)
    recipe = new_recipe(**facts, metrics=training.best_metrics)
    folder.finish(training.best_weights, recipe)
    return recipe


def _all_crops(index: CropIndex) -> tuple[Crop, ...]:
    return index.train + index.validation


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--crops", type=click.Path(path_type=Path), required=True, help="Folder of crops.")
@run_options(
    sorted(PRESETS),
    init="`random`, `imagenet`, or a checkpoint folder.",
    seed="Of weights, sampling and augmentation.",
)
def main(
    crops: Path,
    out: Path,
    init: str,
    preset: str,
    file: Path | None,
    seed: int,
    resume: bool,
    **overrides: Any,
) -> None:
    """Train ResNet50. The module's docstring is the help text."""
    settings = choose_settings(PRESETS, preset, file, **overrides)
    folder = RunFolder(out, STATE_NAME)
    with folder.reported():
        recipe = train(crops, out, settings, init=init, seed=seed, resume=resume)
    folder.report(recipe)


if __name__ == "__main__":
    main()
