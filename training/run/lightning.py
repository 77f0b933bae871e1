"""Training loops by Lightning: batches of an epoch, the best epoch, and a run in its folder."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from training.checkpoint import CheckpointError
from training.run.folder import RunFolder
from training.run.progress import EpochProgress, describe_device
from training.run.settings import ParallelSettings


def processes() -> tuple[int, int]:
    """Return the number of this process, from 0 on, and the number of all that train together."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def share_of(count: int, unit: str) -> int:
    """Return how many of ``count`` each process gets: as many as all others, and the rest is left.

    Raises:
        ValueError: there are fewer than processes. The message calls them ``unit``.
    """
    share = count // processes()[1]
    if count and not share:
        raise ValueError(
            f"an epoch has {count} {unit}, and {processes()[1]} processes train; each needs one at "
            "least. Give fewer --devices or --nodes, or make batches smaller."
        )
    return share


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
    image. Draws of an empty frame have the index ``images``, one beyond the last image. Several
    processes take turns with the batches.
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
        return share_of(whole + int(rest > 1 or (rest == 1 and not whole)), "batches")

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng((self.seed, self.epoch))
        drawn = np.repeat(np.arange(self.images), self.samples_per_frame)
        order = random.permutation(np.append(drawn, np.full(self.blanks, self.images)))
        process, all_processes = processes()
        for number in range(len(self) * all_processes):
            quarter = bool(random.integers(2))
            chosen = order[number * self.batch : (number + 1) * self.batch]
            draws = [Draw(int(i), int(random.integers(2**32)), quarter) for i in chosen]
            if number % all_processes == process:
                yield draws


class BestEpochTraining(lightning.LightningModule, ABC):  # type: ignore[misc]  # ships no types
    """Base class: a subclass defines the steps; this class logs, draws and keeps the best weights.

    Every epoch draws its own random numbers, so that a resumed run continues as if it had not been
    interrupted. A subclass ends its steps with :meth:`log_step` and its validations with
    :meth:`end_epoch`.
    """

    def __init__(self, *, epochs: int, minutes: float | None, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.progress = EpochProgress(epochs, minutes)
        self.timer = None if minutes is None else Timer(timedelta(minutes=minutes))
        self.best_weights: dict[str, Tensor] = {}
        """Weights of the best epoch so far."""
        self.best_metrics: dict[str, float] = {}

    @abstractmethod
    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch: the larger, the better. Of equal epochs the later one is kept."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Return the current weights that a checkpoint needs."""

    def draw_epoch(self, epoch: int) -> None:
        """Start the random numbers of an epoch; the first epoch is 0."""
        torch.manual_seed(self.seed + epoch)

    def on_train_start(self) -> None:
        """Show the device and the length of the run."""
        bf16 = self.trainer.precision == "bf16-mixed"
        self.progress.begin(
            self.trainer.num_training_batches,
            self.current_epoch,
            describe_device(self.device, bf16=bf16, processes=processes()[1]),
            self.timer.time_elapsed() if self.timer else 0.0,
        )

    @property
    def share_done(self) -> float | None:
        """Share of its minutes that the run has taken, 0 to 1; None if it is limited by epochs."""
        if self.timer is None or self.progress.minutes is None:
            return None
        share = min(1.0, self.timer.time_elapsed() / (60 * self.progress.minutes))
        return float(self.trainer.strategy.broadcast(share))  # clocks of several processes differ

    def on_train_epoch_start(self) -> None:
        """Give every epoch its own random numbers."""
        self.draw_epoch(self.current_epoch)

    def on_validation_batch_end(self, *args: Any) -> None:
        """Say where the run is: a validation may take minutes."""
        self.progress.say()

    def log_step(self, loss: Tensor, images: int, name: str = "loss") -> None:
        """Log one step's loss, which is a mean over ``images``, and its learning rate."""
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log(f"train/{name}", loss, batch_size=images, **options)
        rate = self.optimizers().param_groups[0]["lr"]
        self.log("train/learning_rate", rate, batch_size=1, **options)
        self.progress.step()

    def end_epoch(self, metrics: dict[str, float], logged: Collection[str] = ()) -> None:
        """Log and print the validation metrics; keep the weights if they are the best so far.

        Args:
            metrics: metrics of the epoch, by name.
            logged: names of metrics that the validation steps have already logged.
        """
        for name, value in metrics.items():
            if name not in logged:
                self.log(f"validation/{name}", value)  # the same in every process
        self.progress.epoch(self.current_epoch + 1, metrics)
        if not self.best_metrics or self.rank(metrics) >= self.rank(self.best_metrics):
            self.best_metrics = metrics
            self.best_weights = {k: v.detach().clone() for k, v in self.weights().items()}

    def take_best(self, state: Path) -> None:
        """Take the best epoch of an interrupted run from its state.

        Raises:
            CheckpointError: no epoch so far could be the best one.
        """
        # weights_only: without arbitrary pickle.
        best = torch.load(state, map_location="cpu", weights_only=True)["best"]
        if not best["metrics"]:
            raise CheckpointError(
                f"{state} holds no epoch yet that could be the best one; go on with --resume."
            )
        self.best_weights, self.best_metrics = best["weights"], best["metrics"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the best epoch so far for `--resume`."""
        checkpoint["best"] = {"weights": self.best_weights, "metrics": self.best_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the best epoch of an interrupted run, and draw the epoch to resume with."""
        self.draw_epoch(checkpoint["epoch"] + 1)
        self.best_weights = checkpoint["best"]["weights"]
        self.best_metrics = checkpoint["best"]["metrics"]


def fit(
    training: BestEpochTraining,
    loaders: tuple[DataLoader[Any], ...],
    folder: RunFolder,
    settings: ParallelSettings,
    *,
    resume: bool,
    finish: bool = False,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train all epochs, or the remaining ones of an interrupted run, and show the progress.

    With ``finish``, nothing is trained: the best epoch so far of an interrupted run is taken.

    A run of so many minutes ends within an epoch, which is validated like the others.

    Several devices share the batches of an epoch. Each validates all, since the best epoch is
    chosen by all images together. The first process goes on after the training, the others end.

    Raises KeyboardInterrupt on Ctrl-C, as other code does, and CheckpointError if no epoch can be
    taken.
    """
    state = folder.state
    if finish:
        if settings.is_secondary:
            raise SystemExit(0)
        training.take_best(state)
        return
    several = settings.devices * settings.nodes > 1
    training.progress.quiet = settings.is_secondary
    with training.progress, _lightning_kept_quiet():
        trainer = _trainer(training, folder, settings, callbacks)
        try:
            # weights_only: the state of an interrupted run is read without arbitrary pickle.
            trainer.fit(training, *loaders, ckpt_path=state if resume else None, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
    if several:
        torch.distributed.destroy_process_group()
        if settings.is_secondary:
            raise SystemExit(0)
    if not training.best_weights:
        raise ValueError(
            "the run ended before an epoch was whole that could be the best one; give it more "
            "--epochs or --minutes."
        )


def _trainer(
    training: BestEpochTraining,
    folder: RunFolder,
    settings: ParallelSettings,
    callbacks: Sequence[Callback],
) -> lightning.Trainer:
    """Make Lightning's trainer.

    Raises:
        ValueError: this machine has fewer GPUs than devices are to be used.
    """
    state, several = folder.state, settings.devices * settings.nodes > 1
    gpus = torch.cuda.device_count()
    if gpus and settings.devices > gpus:
        raise ValueError(
            f"--devices is at most the number of GPUs of this machine, {gpus}; given: "
            f"{settings.devices}. Give fewer."
        )
    return lightning.Trainer(
        max_epochs=training.progress.epochs if training.timer is None else -1,
        precision="bf16-mixed" if settings.bf16 else "32-true",
        devices=settings.devices,
        num_nodes=settings.nodes,
        # SAM's dense head and averaged weights have no gradient in some steps or in all.
        strategy="ddp_find_unused_parameters_true" if several else "auto",
        use_distributed_sampler=False,  # EpochBatches shares the batches
        logger=TensorBoardLogger(folder.out, name="", version=folder.log.name),
        callbacks=[
            *callbacks,
            *([] if training.timer is None else [training.timer]),
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
