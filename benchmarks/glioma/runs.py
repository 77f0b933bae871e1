"""Trains and tests one U-Net of study S2's protocol on one random split."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.glioma.result import Average
from benchmarks.harness.results import KeptResults, OtherProtocolError
from benchmarks.published import GliomaModel, TestSizes
from training.checkpoint import RANDOM, RECIPE_FILE, WEIGHTS_FILE, hash_files
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.datasets.splits import DatasetSplit, SplitSizes, random_split
from training.preprocessing.normalise import PrepareWholeFrame
from training.run.folder import STATE_NAME, RunFolder
from training.unet.dice import dice_at
from training.unet.frames import foreground_mask
from training.unet.network import UNet, load_unet
from training.unet.run import IMAGENET, train_unet
from training.unet.settings import RESOLUTIONS, UnetSettings, size_text

OWN = "own"
"""Resolution R1 of a test at which cells are as large as in the model's training."""

AUGMENTATIONS: dict[str, dict[str, object]] = {
    "flips": {"flip_probability": 0.5},
    "sharpness": {"sharpness": 0.5},
    "contrast": {"contrast": 0.3},
}
"""Name of the study's option -> settings; the study does not publish the strengths."""


@dataclass(frozen=True)
class Run:
    """One training of a model and its test."""

    model: GliomaModel
    seed: int
    """Seed of the split, the weights and the order of training."""

    @property
    def folder(self) -> str:
        """Folder of its cached result, relative to the protocol's folder."""
        name = re.sub(r"[^a-z0-9]+", "-", str(self.model).lower()).strip("-")
        return f"{name}/split-{self.seed:02}"


@dataclass(frozen=True)
class Protocol:
    """Data and settings that all runs share.

    ``scale`` shrinks every resolution, for small images and short runs. ``checkpoints`` maps (name
    of the pre-training, encoder) to a folder.
    """

    dataset: AnnotatedDataset
    hashes: Mapping[str, str]
    sizes: SplitSizes
    settings: UnetSettings
    """Settings of every training, except those that its model defines."""
    scale: float
    checkpoints: Mapping[tuple[str, str], Path]
    results: KeptResults

    def begin(self) -> None:
        """Check that cached results belong to this protocol; splits and models may differ.

        Raises:
            OtherProtocolError: they do not.
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
        """Return a scaled resolution in the form that `parse_resolution` reads."""
        if name not in RESOLUTIONS or self.scale == 1:
            return name
        size = RESOLUTIONS[name]
        return size_text(*(max(1, round(side * self.scale)) for side in size))

    def training_settings(self, model: GliomaModel) -> UnetSettings:
        """Return the settings for training one model.

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
        """Return both resolutions of a model's test, with that of its training for `OWN`."""
        r1, r2 = sizes
        if r1 == OWN:
            return self.training_settings(model).whole_image_resolution, self.resolution(r2)
        return self.resolution(r1), self.resolution(r2)

    def split(self, run: Run) -> DatasetSplit:
        """Return the frames of a run.

        Raises:
            ValueError: the data set is too small, see `training.datasets.splits`.
        """
        return random_split(self.dataset, self.sizes, run.seed)

    def can_train(self, model: GliomaModel) -> bool:
        """Return whether the weights that it starts from were given."""
        return model.init in (IMAGENET, RANDOM) or self._pretrained(model) is not None

    def initial_weights(self, model: GliomaModel) -> str:
        """Return the start of its training: ``random``, ``imagenet`` or a checkpoint folder.

        Raises:
            ValueError: the folder was not given.
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


def average(splits: Sequence[Sequence[float]]) -> Average:
    """Return the mean over images and splits, from the scores of each split's test images."""
    means = tuple(float(np.mean(scores)) for scores in splits)
    return Average(
        mean=float(np.mean([score for scores in splits for score in scores])),
        spread=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        splits=means,
    )


def run_scores(
    protocol: Protocol, run: Run, tests: Collection[TestSizes], say: Callable[[str], None]
) -> dict[TestSizes, list[float]]:
    """Return Dice of a run's test images by test; train and test only what is not cached.

    Raises:
        ValueError: the data set is too small, or a frame cannot be trained on.
        CheckpointError: initial weights are absent or do not fit.
        OtherProtocolError: the cached run began with other weights than it would now.
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
    """Train, or continue this run's training if it was interrupted after a whole epoch."""
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


def dice_of_frames(
    unet: UNet, frames: Iterable[AnnotatedFrame], r1: str, r2: str
) -> dict[str, float]:
    """Return frame name -> DS^C(R1, R2)."""
    prepare, scores = PrepareWholeFrame(), {}
    for frame in frames:
        camera = torch.from_numpy(np.atleast_3d(frame.read()).astype(np.int32))
        scores[frame.name] = dice_at(unet, prepare(camera), foreground_mask(frame), r1, r2)
    return scores
