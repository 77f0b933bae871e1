"""Training of the cell classifier by Lightning: from crops to the checkpoint of its best epoch."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import cv2
import torch
import torchvision
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

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
from training.resnet.settings import ResnetSettings
from training.run.folder import STATE_NAME, RunFolder
from training.run.lightning import BestEpochTraining, fit, processes, share_of
from training.run.progress import describe_data


class ClassifierTraining(BestEpochTraining):
    """Training and validation steps; keeps the weights of the best epoch.

    Balanced accuracy, the mean of the classes' recalls, decides which epoch is best. In a blood
    smear nine out of ten cells belong to one class, and accuracy alone would hardly depend on the
    other.
    """

    def __init__(
        self,
        classifier: CellClassifier,
        class_count: int,
        *,
        epochs: int,
        minutes: float | None,
        learning_rate: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__(epochs=epochs, minutes=minutes, seed=seed)
        self.classifier = classifier
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.RandomRotation((a, a)) for a in (0, 90, 180, 270)]),
            ]
        )
        self.confusion = MulticlassConfusionMatrix(class_count)

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """Compute the cross-entropy of one augmented batch."""
        crops = torch.stack([self.augment(crop) for crop in batch[0]])
        loss = torch.nn.functional.cross_entropy(self.classifier(crops), batch[1])
        self.log_step(loss, len(crops))
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        """Count the predictions of one batch."""
        logits = self.classifier(batch[0])
        loss = torch.nn.functional.cross_entropy(logits, batch[1])
        self.log("validation/loss", loss, sync_dist=True)
        self.confusion.update(logits, batch[1])

    def on_validation_epoch_end(self) -> None:
        """Keep the weights if balanced accuracy, then loss, is the best so far."""
        metrics = {
            **accuracies(self.confusion.compute()),
            "loss": float(self.trainer.callback_metrics["validation/loss"]),
        }
        self.confusion.reset()
        self.end_epoch(metrics, logged=["loss"])

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch by balanced accuracy, then by loss."""
        return metrics["balanced_accuracy"], -metrics["loss"]

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the weights of the classifier."""
        weights: Mapping[str, torch.Tensor] = self.classifier.state_dict()
        return weights

    def configure_optimizers(self) -> dict[str, Any]:
        """Use AdamW with a learning rate that falls by a cosine, of epochs or of minutes."""
        optimizer = torch.optim.AdamW(
            self.classifier.parameters(),
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        if self.share_done is not None:
            falling = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: (1 + math.cos(math.pi * (self.share_done or 0))) / 2
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": falling, "interval": "step"},
            }
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def accuracies(confusion: torch.Tensor) -> dict[str, float]:
    """Compute accuracy and balanced accuracy of a confusion matrix ``[K true, K predicted]``.

    A class without any validation crop has no recall, so the mean is taken over the others.
    """
    right, crops = confusion.diagonal(), confusion.sum(dim=1)
    recalls = (right / crops)[crops > 0]
    return {
        "accuracy": float(right.sum() / crops.sum()),
        "balanced_accuracy": float(recalls.mean()),
    }


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
    """Draws every class equally often. In a resumed run, an epoch draws the same crops.

    Several processes take turns with the crops.
    """

    def __init__(self, class_ids: list[int], counts: list[int], seed: int) -> None:
        generator = torch.Generator()
        weights = [1 / counts[class_id] for class_id in class_ids]
        super().__init__(weights, len(class_ids), generator=generator)
        self.seed = seed

    def __len__(self) -> int:
        return share_of(self.num_samples, "crops")

    def __iter__(self) -> Iterator[int]:
        process, all_processes = processes()
        drawn = itertools.islice(super().__iter__(), process, None, all_processes)
        return itertools.islice(drawn, len(self))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before the epoch's first batch is drawn."""
        self.generator.manual_seed(self.seed + epoch)


def _loaders(
    folder: Path, index: CropIndex, settings: ResnetSettings, seed: int
) -> tuple[DataLoader[Any], ...]:
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
    batch, share = settings.batch, len(training) // (settings.devices * settings.nodes)
    drop_last = share > batch and share % batch == 1
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


def train_resnet(
    crops: Path,
    out: Path,
    settings: ResnetSettings,
    *,
    init: str,
    seed: int,
    resume: bool,
    finish: bool = False,
) -> Recipe:
    """Train one classifier and write its checkpoint to ``out``; return its recipe."""
    index = read_index(crops)
    click.echo(
        describe_data(
            "crops", *(_by_class(index, part) for part in (index.train, index.validation))
        )
    )
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
    loaders = _loaders(crops, index, settings, seed)
    folder = RunFolder(out, STATE_NAME, quiet=settings.is_secondary)
    folder.begin(facts, resume=resume or finish)
    training = ClassifierTraining(
        classifier,
        len(index.class_names),
        epochs=settings.epochs,
        minutes=settings.minutes,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        seed=seed,
    )
    fit(training, loaders, folder, settings, resume=resume, finish=finish)
    recipe = new_recipe(**facts, metrics=training.best_metrics)
    folder.finish(training.best_weights, recipe)
    return recipe


def _by_class(index: CropIndex, crops: tuple[Crop, ...]) -> tuple[int, dict[str, int]]:
    """Count crops, in all and of each class."""
    classes = Counter(crop.class_id for crop in crops)
    return len(crops), {name: classes[i] for i, name in enumerate(index.class_names)}


def _all_crops(index: CropIndex) -> tuple[Crop, ...]:
    return index.train + index.validation
