"""Train ResNet50 to tell cells apart, by the protocol of study S1: 150 epochs on crops.

    python -m training.crops  --data runs/data/target --out runs/crops
    python -m training.resnet --crops runs/crops --out runs/classifier

`--init imagenet` starts from torchvision's ImageNet weights where they can be fetched. `--preset
demo` is the same in fewer epochs. Classes are sampled equally often however rare they are. A run
that was cut off goes on with `--resume`. OUT is the checkpoint; OUT/log is for TensorBoard.
"""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import click
import cv2
import lightning
import torch
import torchvision
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import BaseModel, ConfigDict, Field
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from training.checkpoint import CheckpointError, load_checkpoint, new_recipe, save_checkpoint
from training.classifier import ARCHITECTURE, CellClassifier
from training.command_line import choose_settings
from training.crops import Crop, CropIndex, read_index


class ResnetSettings(BaseModel):
    """Settings of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(150, gt=0)
    """Passes; one pass draws as many crops as there are."""
    batch: int = Field(32, gt=1)
    """Crops per step."""
    learning_rate: float = Field(3e-4, gt=0)
    """At the start of a cosine that ends at zero (AdamW)."""
    weight_decay: float = Field(0.01, ge=0)
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


PRESETS = {"study": ResnetSettings(), "demo": ResnetSettings(epochs=12)}


class ClassifierTraining(lightning.LightningModule):  # type: ignore[misc]  # ships no types
    """One step, one validation, and the weights of the best epoch.

    Balanced accuracy, the mean of the classes' recalls, decides which epoch is best: in a blood
    smear nine of ten cells are of one class, and accuracy alone would not notice the other.
    """

    def __init__(self, classifier: CellClassifier, class_count: int, settings: ResnetSettings):
        super().__init__()
        self.classifier = classifier
        self.settings = settings
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.RandomRotation((a, a)) for a in (0, 90, 180, 270)]),
            ]
        )
        self.accuracy = MulticlassAccuracy(num_classes=class_count, average="micro")
        self.balanced_accuracy = MulticlassAccuracy(num_classes=class_count, average="macro")
        self.best_weights: dict[str, torch.Tensor] = {}
        self.best_metrics: dict[str, float] = {}

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """Cross-entropy of one augmented batch."""
        crops = torch.stack([self.augment(crop) for crop in batch[0]])
        loss = torch.nn.functional.cross_entropy(self.classifier(crops), batch[1])
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        """Update the validation metrics with one batch."""
        logits = self.classifier(batch[0])
        self.log("validation/loss", torch.nn.functional.cross_entropy(logits, batch[1]))
        for name in ("accuracy", "balanced_accuracy"):
            metric = getattr(self, name)
            metric.update(logits, batch[1])
            self.log(f"validation/{name}", metric, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Keep the weights when balanced accuracy, then loss, is the best so far."""
        if self.trainer.sanity_checking:
            return
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        metrics |= {n: float(getattr(self, n).compute()) for n in ("accuracy", "balanced_accuracy")}
        if not self.best_metrics or _rank(metrics) >= _rank(self.best_metrics):
            self.best_metrics = metrics
            self.best_weights = {k: v.clone() for k, v in self.classifier.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let `--resume` know the best epoch so far."""
        checkpoint["best"] = {"weights": self.best_weights, "metrics": self.best_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the best epoch so far from an interrupted run."""
        self.best_weights = checkpoint["best"]["weights"]
        self.best_metrics = checkpoint["best"]["metrics"]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW on a cosine."""
        optimizer = torch.optim.AdamW(
            self.classifier.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.settings.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["balanced_accuracy"], -metrics["validation/loss"]


def _read_crops(folder: Path, crops: tuple[Crop, ...]) -> TensorDataset:
    """Crops uint8 ``[N, 3, S, S]`` RGB and class ids int64 ``[N]``."""
    pixels = []
    for crop in crops:
        image = cv2.imread(str(folder / crop.file), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{folder / crop.file} cannot be read; cut the crops again.")
        pixels.append(torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1))
    return TensorDataset(torch.stack(pixels), torch.tensor([crop.class_id for crop in crops]))


def _loaders(folder: Path, index: CropIndex, batch: int, seed: int) -> tuple[DataLoader[Any], ...]:
    """Training batches with equally frequent classes, and validation batches.

    Raises:
        ValueError: a class has no crop to train on, or there is nothing to validate.
    """
    training = _read_crops(folder, index.train)
    counts = torch.bincount(training.tensors[1], minlength=len(index.class_names))
    if not counts.all() or not index.validation:
        missing = [n for n, c in zip(index.class_names, counts.tolist(), strict=True) if not c]
        raise ValueError(
            f"{folder}: every class needs crops to train on and some crop must be left to "
            f"validate; without training crops: {missing or 'none'}, validation crops: "
            f"{len(index.validation)}. Annotate more frames or choose another --seed of the split."
        )
    weights = (1 / counts.float())[training.tensors[1]]
    generator = torch.Generator().manual_seed(seed)
    sampler = WeightedRandomSampler(weights.tolist(), len(training), generator=generator)
    # A last batch of a single crop would have no variance to normalise with.
    drop_last = len(training) > batch and len(training) % batch == 1
    return (
        DataLoader(training, batch, sampler=sampler, drop_last=drop_last),
        DataLoader(_read_crops(folder, index.validation), batch),
    )


def _initialise(classifier: CellClassifier, init: str) -> None:
    """Fill all but the head with ImageNet's weights or those of a checkpoint folder."""
    if init == "imagenet":
        weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
        try:
            state = weights.get_state_dict(check_hash=True, weights_only=True)
        except (urllib.error.URLError, OSError) as error:
            raise CheckpointError(
                f"ImageNet weights are at {weights.url}, which cannot be reached from here "
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
    crops: Path, out: Path, settings: ResnetSettings, *, init: str | None, seed: int, resume: bool
) -> None:
    """Train one classifier and write its checkpoint to ``out``; see the module's docstring."""
    index = read_index(crops)
    lightning.seed_everything(seed, verbose=False)
    classifier = CellClassifier(len(index.class_names))
    if init is not None:
        _initialise(classifier, init)
    loaders = _loaders(crops, index, settings.batch, seed)
    training = ClassifierTraining(classifier, len(index.class_names), settings)
    last = out / "resume" / "last.ckpt"
    if resume and not last.is_file():
        raise CheckpointError(f"{last}: there is no interrupted run to resume; omit --resume.")
    trainer = lightning.Trainer(
        max_epochs=settings.epochs,
        precision="bf16-mixed" if settings.bf16 else "32-true",
        logger=TensorBoardLogger(out, name="", version="log"),
        callbacks=[ModelCheckpoint(last.parent, save_last=True, save_top_k=0)],
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    # weights_only: the state of an interrupted run is read without arbitrary pickle.
    trainer.fit(training, *loaders, ckpt_path=last if resume else None, weights_only=True)
    recipe = new_recipe(
        architecture=ARCHITECTURE,
        class_names=index.class_names,
        settings=settings.model_dump(),
        data=index.data,
        initialised_from=init or "random",
        seed=seed,
        metrics=training.best_metrics,
    )
    save_checkpoint(out, training.best_weights, recipe)
    click.echo(f"checkpoint {out}: {index.class_names}, {training.best_metrics}")


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--crops", type=click.Path(path_type=Path), required=True, help="Folder of crops.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--init", help="Checkpoint folder, or `imagenet`. Default: random weights.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="study")
@click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="YAML file of settings that change the preset's.",
)
@click.option("--epochs", type=int, help="Passes over the crops.")
@click.option("--bf16/--no-bf16", default=None, help="Mixed precision in bfloat16.")
@click.option("--seed", default=0, help="Of weights, sampling and augmentation.")
@click.option("--resume", is_flag=True, help="Go on with the run that was cut off in OUT.")
def main(
    crops: Path,
    out: Path,
    init: str | None,
    preset: str,
    file: Path | None,
    epochs: int | None,
    bf16: bool | None,
    seed: int,
    resume: bool,
) -> None:
    """Train ResNet50; the module's docstring is the help."""
    settings = choose_settings(PRESETS, preset, file, epochs=epochs, bf16=bf16)
    try:
        train(crops, out, settings, init=init, seed=seed, resume=resume)
    except ValueError as error:  # CheckpointError among them
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
