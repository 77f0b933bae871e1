"""Runs a LightningModule in a run's folder: log, resumable state, and a quiet terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Sampler

from training.run.folder import RunFolder


@dataclass(frozen=True)
class Draw:
    """One training image of a batch: its index, its random seed, and its rotation."""

    index: int
    seed: int
    quarter: bool
    """True if height and width are exchanged; the same for a whole batch."""


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch in random order, the same every time that epoch is drawn.

    Set :attr:`epoch` before every epoch. A last batch of one image is left out, since batch
    normalisation learns nothing useful from it, unless it is the only batch or all batches hold one
    image. Draws of an empty frame have the index ``images``, one beyond the last image.
    """

    def __init__(
        self, images: int, samples_per_frame: int, batch: int, seed: int, blanks: int = 0
    ) -> None:
        self.images = images
        self.samples_per_frame = samples_per_frame
        self.batch = batch
        self.seed = seed
        self.blanks = blanks
        self.epoch = 0

    def __len__(self) -> int:
        count = self.images * self.samples_per_frame + self.blanks
        whole, rest = divmod(count, self.batch)
        return whole + int(rest > 1 or (rest == 1 and not whole))

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng((self.seed, self.epoch))
        drawn = np.repeat(np.arange(self.images), self.samples_per_frame)
        order = random.permutation(np.append(drawn, np.full(self.blanks, self.images)))
        for number in range(len(self)):
            quarter = bool(random.integers(2))
            chosen = order[number * self.batch : (number + 1) * self.batch]
            yield [Draw(int(i), int(random.integers(2**32)), quarter) for i in chosen]


STATE_NAME = "last.ckpt"
"""State of an interrupted run, below ``resume/``."""


def fit(
    training: lightning.LightningModule,
    loaders: tuple[DataLoader[Any], ...],
    folder: RunFolder,
    *,
    epochs: int,
    bf16: bool,
    resume: bool,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train all epochs, or the remaining ones of an interrupted run.

    Raises KeyboardInterrupt on Ctrl-C, as other code does.
    """
    state = folder.state
    with _lightning_kept_quiet():
        trainer = lightning.Trainer(
            max_epochs=epochs,
            precision="bf16-mixed" if bf16 else "32-true",
            logger=TensorBoardLogger(folder.out, name="", version=folder.log.name),
            callbacks=[
                *callbacks,
                ModelCheckpoint(
                    state.parent,
                    state.stem,
                    save_on_train_epoch_end=True,
                    enable_version_counter=False,
                ),
            ],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        try:
            # weights_only: the state of an interrupted run is read without arbitrary pickle.
            trainer.fit(training, *loaders, ckpt_path=state if resume else None, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error


@contextmanager
def _lightning_kept_quiet() -> Iterator[None]:
    """Hide Lightning's tips, and warnings about what is intended."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The images lie in memory: workers would only copy them.
            warnings.filterwarnings("ignore", ".*does not have many workers")
            # The folder holds the facts of the run, and the state to resume.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            # Lightning itself uses a class that torch will remove.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        logger.setLevel(level)
