"""Training and testing one U-Net of study S2's protocol on one random split."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness.results import KeptResults, OtherProtocolError
from benchmarks.published import GliomaModel, TestSizes
from training.checkpoint import RANDOM, RECIPE_FILE, WEIGHTS_FILE
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.datasets.splits import DatasetSplit, SplitSizes, random_split
from training.preprocessing.contrast import PrepareWholeFrame
from training.run.file_hashes import hash_files
from training.run.folder import RunFolder
from training.run.lightning import STATE_NAME
from training.unet.dice import NATIVE, RESOLUTIONS, dice_at, size_text
from training.unet.frames import foreground_mask
from training.unet.network import UNet, load_unet
from training.unet.settings import UnetSettings
from training.unet.train import IMAGENET, train_unet

OWN = "own"
"""In a test's R1: the resolution at which cells are as large as in the model's training."""


AUGMENTATIONS: dict[str, dict[str, object]] = {
    "flips": {"flip_probability": 0.5},
    "sharpness": {"sharpness": 0.5},
    "contrast": {"contrast": 0.3},
}
"""The study's options by name -> settings; it prints no strengths."""


@dataclass(frozen=True)
class Run:
    """One training of a model and its test."""

    model: GliomaModel
    training_images: int
    seed: int
    """Of the split, the weights and the order of training."""

    @property
    def folder(self) -> str:
        """Where its result is kept, below the protocol's folder."""
        return f"{slug(str(self.model))}/{self.training_images}-images/split-{self.seed:02}"


@dataclass(frozen=True)
class Protocol:
    """What all runs share.

    ``scale`` shrinks every resolution, for small images and short runs; ``checkpoints`` are
    folders by (name of the pre-training, encoder).
    """

    dataset: AnnotatedDataset
    hashes: Mapping[str, str]
    sizes: SplitSizes
    settings: UnetSettings
    """Of every training, but for what its model says."""
    scale: float
    checkpoints: Mapping[tuple[str, str], Path]
    results: KeptResults

    def begin(self) -> None:
        """See that what is kept belongs to this protocol; number of splits and models may differ.

        Raises:
            OtherProtocolError: it does not.
        """
        self.results.begin(
            {
                "data": dict(self.hashes),
                "sizes": str(self.sizes),
                "settings": self.settings.model_dump(mode="json"),
                "scale": self.scale,
            }
        )

    def resolution(self, name: str) -> str:
        """A resolution as `training.unet.dice.parse_resolution` reads it, scaled."""
        if name not in RESOLUTIONS or self.scale == 1:
            return name
        size = RESOLUTIONS[name]
        return size_text(*(max(1, round(side * self.scale)) for side in size))

    def training_settings(self, model: GliomaModel) -> UnetSettings:
        """Settings of the training of one model.

        Raises:
            pydantic.ValidationError: the model has an unknown encoder or resolution.
        """
        changes: dict[str, object] = {
            "encoder": model.encoder,
            "mode": model.mode,
            "resolution": self.resolution(model.resolution),
        }
        for name in model.augmentation:
            changes |= AUGMENTATIONS[name]
        return UnetSettings.model_validate({**self.settings.model_dump(), **changes})

    def tested_at(self, model: GliomaModel, sizes: TestSizes) -> TestSizes:
        """Both resolutions of a test of a model, with that of its training in place of `OWN`."""
        r1, r2 = sizes
        if r1 == OWN:
            return self.training_settings(model).whole_image_resolution, self.resolution(r2)
        return self.resolution(r1), self.resolution(r2)

    def split(self, run: Run) -> DatasetSplit:
        """The frames of a run.

        Raises:
            ValueError: the data set is too small, see `training.datasets.splits`.
        """
        return random_split(self.dataset, self.sizes, run.seed).first(run.training_images)

    def can_train(self, model: GliomaModel) -> bool:
        """Whether the weights that it starts from were given."""
        return model.init in (IMAGENET, RANDOM) or self._pretrained(model) is not None

    def initial_weights(self, model: GliomaModel) -> str:
        """Where its training starts: ``random``, ``imagenet`` or a checkpoint folder.

        Raises ValueError where the folder was not given.
        """
        folder = self._pretrained(model)
        if folder is None and model.init not in (IMAGENET, RANDOM):
            raise ValueError(
                f"{model} starts from a pre-training that was not given; add "
                f"--pretrained {model.init}=DIR with a checkpoint of U-Net-{model.encoder}."
            )
        return str(folder or model.init)

    def _pretrained(self, model: GliomaModel) -> Path | None:
        return self.checkpoints.get((model.init, model.encoder))


def slug(text: str) -> str:
    """A folder name of a title."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True)
class Average:
    """DiceScore^AV of a model, or its loss."""

    mean: float
    """Over all test images and splits."""
    spread: float | None
    """Standard deviation of the splits' means (of a sample, K - 1); None of a single split."""
    splits: tuple[float, ...]
    """Mean over the test images of every split."""

    def as_loss(self) -> Average:
        """DiceLoss^AV = 1 - DiceScore^AV."""
        return Average(1 - self.mean, self.spread, tuple(1 - score for score in self.splits))


def average(splits: Sequence[Sequence[float]]) -> Average:
    """The mean over images and splits, from the scores of every split's test images."""
    means = tuple(float(np.mean(scores)) for scores in splits)
    return Average(
        mean=float(np.mean([score for scores in splits for score in scores])),
        spread=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        splits=means,
    )


def run_scores(
    protocol: Protocol, run: Run, tests: Collection[TestSizes], say: Callable[[str], None]
) -> dict[TestSizes, list[float]]:
    """Dice of every test image of a run by test sizes; trains and tests only what is not kept.

    Raises:
        ValueError: the data set is too small, or a frame cannot be trained on.
        CheckpointError: initial weights are absent or do not fit.
        OtherProtocolError: the kept run began with other weights than it would now.
    """
    init = protocol.initial_weights(run.model)
    origin = init if init in (IMAGENET, RANDOM) else hash_files([Path(init) / WEIGHTS_FILE])
    kept = protocol.results.load(run.folder) or {"initialised_from": origin, "dice": {}}
    if kept["initialised_from"] != origin:
        raise OtherProtocolError(
            f"{protocol.results.folder(run.folder)} holds a training that began with other weights "
            f"than {init}; give the same --pretrained, or another --out."
        )
    keys = {test: ",".join(protocol.tested_at(run.model, test)) for test in tests}
    missing = sorted(set(keys.values()) - kept["dice"].keys())
    if missing:
        split, folder = protocol.split(run), protocol.results.folder(run.folder)
        if not (folder / RECIPE_FILE).is_file():
            say(f"training {run.folder}")
            _train(protocol, run, split, folder, init)
        say(f"testing {run.folder}")
        unet = load_unet(folder)[0]
        for key in missing:
            kept["dice"][key] = dice_of_frames(unet, split.test.frames, *key.split(","))
        protocol.results.save(run.folder, kept)
    return {test: list(kept["dice"][key].values()) for test, key in keys.items()}


def _train(protocol: Protocol, run: Run, split: DatasetSplit, out: Path, init: str) -> None:
    """Train, or go on with a training of this run that was cut off after a whole epoch."""
    train_unet(
        split.training,
        split.validation,
        protocol.training_settings(run.model),
        out,
        init=init,
        seed=run.seed,
        resume=RunFolder(out, STATE_NAME).state.is_file(),
        data=protocol.hashes,
    )


def zero_shot_scores(
    protocol: Protocol, checkpoint: Path, test: TestSizes, seeds: Sequence[int]
) -> list[list[float]]:
    """Dice of a checkpoint on the test images of every split, without any training.

    Raises:
        CheckpointError: it is absent, damaged or of another network.
        ValueError: the data set is too small.
    """
    unet = load_unet(checkpoint)[0]
    name = f"zero-shot/{slug(checkpoint.name)}-{hash_files([checkpoint / WEIGHTS_FILE])[:8]}"
    key = ",".join(test)
    kept = protocol.results.load(name) or {}
    dice = kept.setdefault(key, {})
    splits = [random_split(protocol.dataset, protocol.sizes, seed).test.frames for seed in seeds]
    missing = {f.name: f for frames in splits for f in frames if f.name not in dice}
    r1, r2 = (protocol.resolution(NATIVE if name == OWN else name) for name in test)
    dice.update(dice_of_frames(unet, missing.values(), r1, r2))
    protocol.results.save(name, kept)
    return [[dice[frame.name] for frame in frames] for frames in splits]


def dice_of_frames(
    unet: UNet, frames: Iterable[AnnotatedFrame], r1: str, r2: str
) -> dict[str, float]:
    """DS^C(R1, R2) of every frame, by its name."""
    prepare, scores = PrepareWholeFrame(), {}
    for frame in frames:
        camera = torch.from_numpy(np.atleast_3d(frame.read()).astype(np.int32))
        scores[frame.name] = dice_at(unet, prepare(camera), foreground_mask(frame), r1, r2)
    return scores
