"""Training of a YOLO by ultralytics: its masks, the state to resume from, and its threshold.

ultralytics fills polygons with their border and then rounds up each block of 4 x 4 pixels of which
half is inside. That makes every cell 0.9 px wider on each side, and a network that has learned from
such masks draws its outlines that far outside. Here a prototype pixel is inside if its centre is.

ultralytics pickles its checkpoints. Here the state from which an interrupted training can resume is
one safetensors file. The score threshold is chosen on validation frames, as served.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from skimage import draw
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cytoserve.cells import Cells
from cytoserve.contract import DEFAULT_MAX_CELLS, NETWORK_SIZE, OVERLAP_THRESHOLD
from cytoserve.files import write_atomically
from training.checkpoint import CheckpointError, ChosenThreshold, LearnedScale
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import LOWEST, choose_score_threshold, validation_frames
from training.preprocessing.cutting import NetworkTiles
from training.run.folder import RunFolder
from training.run.progress import EpochProgress, describe_device
from training.yolo.decode import YoloDecode
from training.yolo.network import SegmentationModel, YoloNetwork, all_threads, new_network, transfer

# After training.yolo.network, which keeps ultralytics offline.
from ultralytics.data.augment import Format  # isort: skip
from ultralytics.models.yolo.segment import SegmentationTrainer  # isort: skip
from ultralytics.utils.torch_utils import ModelEMA, init_seeds  # isort: skip

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class YoloState:
    """State of a run after a complete epoch, without its settings, which are given on resuming."""

    epoch: int
    """Last complete epoch, counted from 0."""
    updates: int
    """Number of updates of the averaged weights."""
    best_fitness: float
    best_metrics: dict[str, float]
    network: Tensors
    averaged: Tensors
    """Exponential moving average of the network's weights, which is used in validation."""
    best: Tensors
    """Averaged weights of the best epoch."""
    optimizer: dict[int, Tensors]
    """State of each parameter, as ``optimizer.state_dict()["state"]``."""
    seconds: float = 0.0
    """Seconds that the run has taken."""

    def write(self, file: Path) -> None:
        """Replace ``file`` atomically, so that an interruption leaves the old or the new state."""
        tensors = {
            **{f"model.{name}": tensor for name, tensor in self.network.items()},
            **{f"ema.{name}": tensor for name, tensor in self.averaged.items()},
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **{
                f"optimizer.{index}.{name}": tensor
                for index, entry in self.optimizer.items()
                for name, tensor in entry.items()
            },
        }
        facts = {
            "epoch": self.epoch,
            "updates": self.updates,
            "best_fitness": self.best_fitness,
            "best_metrics": self.best_metrics,
            "seconds": self.seconds,
        }
        # Clones: the averaged weights may also be the best ones, and safetensors stores no shared
        # memory.
        tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        write_atomically(file, save(tensors, metadata={"state": json.dumps(facts)}))

    @classmethod
    def read(cls, file: Path) -> YoloState:
        """Read a file that `write` wrote.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                facts = json.loads(opened.metadata()["state"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is damaged: {error}. Begin anew without --resume."
            ) from error
        optimizer: dict[int, Tensors] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            optimizer.setdefault(int(index), {})[key] = tensor
        return cls(
            epoch=facts["epoch"],
            updates=facts["updates"],
            best_fitness=facts["best_fitness"],
            best_metrics=facts["best_metrics"],
            network=_under("model.", tensors),
            averaged=_under("ema.", tensors),
            best=_under("best.", tensors),
            optimizer=optimizer,
            seconds=facts.get("seconds", 0.0),
        )


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


POINTS = 250
"""Maximum number of outline points that are used, of the 1,000 that ultralytics makes."""

ASIDE = 1e-3
"""Shift of outlines in mask pixels, so that no pixel centre lies on an outline: it would belong to
the cells on both sides. Outlines on whole frame pixels, where every fourth edge meets a centre,
move by a quarter of a pixel. Random zoom and shift in training average that out."""


class CentreMasks(Format):  # type: ignore[misc]  # ultralytics ships no types
    """ultralytics' last transform, with masks by pixel centres; cells may overlap."""

    def _format_segments(
        self, instances: Any, cls: npt.NDArray[Any], w: int, h: int
    ) -> tuple[npt.NDArray[Any], Any, npt.NDArray[Any]]:
        """Make masks uint8 ``[N, h / ratio, w / ratio]``; cells and classes pass unchanged."""
        return centre_masks(instances.segments, (h, w), self.mask_ratio), instances, cls


def centre_masks(
    outlines: Sequence[npt.NDArray[Any]], size: tuple[int, int], ratio: int
) -> npt.NDArray[np.uint8]:
    """Rasterise outlines at a coarser resolution.

    Args:
        outlines: ``[P, 2]`` each, (x, y) in pixels; 0 is the left (or upper) edge of the first
            pixel.
        size: (height, width) in pixels.
        ratio: pixels per mask pixel, along each side.

    Returns:
        uint8 ``[N, height / ratio, width / ratio]``, 1 inside.
    """
    shape = (size[0] // ratio, size[1] // ratio)
    masks = np.zeros((len(outlines), *shape), np.uint8)
    for mask, outline in zip(masks, outlines, strict=True):
        some = np.asarray(outline, np.float64)[:: max(1, len(outline) // POINTS)]
        x, y = (some / ratio - 0.5 + ASIDE).T
        mask[draw.polygon(y, x, shape)] = 1
    return masks


METRIC_NAMES = {
    **{
        f"metrics/{figure}({letter})": f"{what} {figure}"
        for letter, what in (("B", "box"), ("M", "mask"))
        for figure in ("precision", "recall", "mAP50", "mAP50-95")
    },
    "val/box_loss": "validation box loss",
    "val/seg_loss": "validation mask loss",
    "val/cls_loss": "validation class loss",
    "val/dfl_loss": "validation box edge loss",
    "val/sem_loss": "validation semantic loss",
}
"""ultralytics' names of its metrics -> names in recipe and report. TensorBoard shows the former."""


def named_plainly(metrics: Mapping[str, float]) -> dict[str, float]:
    """Rename ultralytics' metrics; names of the recipe, and unknown ones, stay as they are."""
    return {METRIC_NAMES.get(name, name): float(value) for name, value in metrics.items()}


class YoloTrainer(SegmentationTrainer):  # type: ignore[misc]  # ultralytics ships no types
    """Trains from plain tensors, and stores the best weights in memory and on disk as tensors.

    Args:
        overrides: ultralytics' settings.
        initial: weights to start from; tensors that do not match (the class heads) stay random.
        folder: folder of the run, for its log and its state after every epoch.
        resume: resume from the state in ``folder``.
        bf16: train in mixed precision, see `Bf16Network`.

    Raises CheckpointError if the state to resume is damaged.
    """

    def __init__(
        self,
        overrides: dict[str, Any],
        *,
        initial: dict[str, torch.Tensor] | None,
        folder: RunFolder,
        resume: bool,
        bf16: bool,
    ) -> None:
        self.folder = folder
        self.state = YoloState.read(folder.state) if resume else None
        self.bf16 = bf16
        self.initial = initial
        self.best_weights: dict[str, torch.Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        self.minutes: float | None = (
            None if overrides.get("time") is None else 60 * overrides["time"]
        )
        self.progress = EpochProgress(overrides["epochs"], self.minutes)
        with all_threads():
            super().__init__(overrides=overrides)
        if not any(self.wdir.iterdir()):
            self.wdir.rmdir()  # meant for pickled checkpoints, which are not written
        self.add_callback("on_train_start", _begin_progress)
        self.add_callback("on_train_epoch_start", _seed_epoch)
        if self.minutes is not None:
            self.add_callback("on_train_start", _go_on_in_time)
            self.add_callback("on_train_epoch_start", _count_all_epochs)
            self.add_callback("on_fit_epoch_end", _close_mosaic_in_time)
        self.add_callback("on_train_batch_end", lambda trainer: trainer.progress.step())
        self.add_callback("on_val_batch_end", lambda validator: self.progress.say())

    def train(self) -> None:
        """Train the remaining epochs; there may be none if the run was interrupted late."""
        self.log = SummaryWriter(str(self.folder.log))
        if self.state is not None:
            self.best_weights = self.state.best
            self.best_metrics = named_plainly(self.state.best_metrics)  # of earlier versions too
        try:
            if self.state is None or not self._is_over(self.state):
                with self.progress:
                    super().train()
        finally:
            self.log.close()

    def _is_over(self, state: YoloState) -> bool:
        if self.minutes is not None:
            return state.seconds >= 60 * self.minutes
        return state.epoch + 1 >= int(self.epochs)

    def build_dataset(self, *args: Any, **options: Any) -> Any:
        """Read windows and labels, without the pickled cache that ultralytics stores next to them.

        Masks are those of :class:`CentreMasks`.
        """
        self._remove_caches()
        dataset = super().build_dataset(*args, **options)
        dataset.format_class = CentreMasks
        dataset.transforms = dataset.build_transforms(hyp=self.args)
        self._remove_caches()
        return dataset

    def _remove_caches(self) -> None:
        for cache in self.data["path"].glob("labels/*.cache"):
            cache.unlink()

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the network and copy the initial weights."""
        network: SegmentationModel = new_network(self.data["nc"], bf16=self.bf16)
        if self.initial is not None:
            transfer(network, self.initial)
        return network

    def resume_training(self, ckpt: Any) -> None:
        """Resume after the last complete epoch of an interrupted run."""
        if self.state is None:
            return
        self.model.load_state_dict(self.state.network)
        self.ema = ModelEMA(self.model)
        self.ema.ema.load_state_dict(self.state.averaged)
        self.ema.updates = self.state.updates
        self.best_fitness, self.start_epoch = self.state.best_fitness, self.state.epoch + 1
        groups = self.optimizer.state_dict()["param_groups"]  # the schedule sets their values
        self.optimizer.load_state_dict({"state": self.state.optimizer, "param_groups": groups})

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Log the epoch for TensorBoard, and print its main figures."""
        for name, value in metrics.items():
            self.log.add_scalar(name, float(value), self.epoch + 1)
        self.log.flush()
        self.progress.epoch(
            self.epoch + 1,
            {
                "loss": sum(float(value) for value in self.tloss.values()),
                **{name: named_plainly(metrics)[name] for name in ("box mAP50", "mask mAP50")},
            },
        )

    def save_model(self) -> bool:
        """Keep the averaged weights of the best epoch, and the state that `--resume` needs."""
        averaged = {k: v.clone() for k, v in self.ema.ema.state_dict().items()}
        if self.best_fitness == self.fitness or not self.best_weights:
            self.best_weights = averaged
            self.best_metrics = named_plainly(self.metrics)
        optimizer = {
            index: {k: torch.as_tensor(v) for k, v in entry.items() if v is not None}
            for index, entry in self.optimizer.state_dict()["state"].items()
        }
        YoloState(
            epoch=self.epoch,
            updates=self.ema.updates,
            best_fitness=float(self.best_fitness),
            best_metrics=self.best_metrics,
            network=self.model.state_dict(),
            averaged=averaged,
            best=self.best_weights,
            optimizer=optimizer,
            seconds=time.time() - self.train_time_start,
        ).write(self.folder.state)
        return True

    def final_eval(self) -> None:
        """Do nothing: the best weights were validated in their epoch and are not pickled."""

    def _handle_nan_recovery(self, epoch: int) -> bool:
        losses = {name: float(value) for name, value in self.tloss.items()}
        if not all(map(math.isfinite, losses.values())):
            raise ValueError(
                f"training diverged: the losses of epoch {epoch + 1} are {losses}. Begin anew with "
                "a lower learning_rate."
            )
        return False


def _begin_progress(trainer: YoloTrainer) -> None:
    device = describe_device(trainer.device, bf16=trainer.bf16)
    seconds = trainer.state.seconds if trainer.state else 0.0
    trainer.progress.begin(len(trainer.train_loader), trainer.start_epoch, device, seconds)


def _go_on_in_time(trainer: YoloTrainer) -> None:
    """Count the seconds of a resumed run, and estimate its epochs as ultralytics does later."""
    if trainer.state is None or trainer.minutes is None:
        return
    trainer.train_time_start -= trainer.state.seconds
    per_epoch = max(trainer.state.seconds, 1e-3) / trainer.start_epoch
    whole = math.ceil(60 * trainer.minutes / per_epoch)
    trainer.epochs = trainer.args.epochs = max(trainer.start_epoch + 1, whole)
    trainer._setup_scheduler()
    trainer.scheduler.last_epoch = trainer.start_epoch - 1


def _count_all_epochs(trainer: YoloTrainer) -> None:
    """Let ultralytics divide the seconds of a resumed run by all its epochs, not by the new ones.

    It has read ``start_epoch`` before.
    """
    trainer.start_epoch = 0


def _close_mosaic_in_time(trainer: YoloTrainer) -> None:
    """Turn mosaics off in the last tenth of the epochs that the minutes allow by now."""
    if trainer.args.close_mosaic:
        trainer.args.close_mosaic = max(1, trainer.epochs // 10)


def _seed_epoch(trainer: YoloTrainer) -> None:
    """Give every epoch its own random numbers, so that a resumed run repeats none."""
    seed = trainer.args.seed + trainer.epoch
    init_seeds(seed, deterministic=trainer.args.deterministic)
    trainer.train_loader.generator.manual_seed(seed)


TILES_AT_ONCE = 2
"""Number of tiles per pass through the network."""


class YoloPipeline(nn.Module):
    """Runs the modules of the served pipeline `yolo` in sequence on one frame."""

    def __init__(self, network: SegmentationModel) -> None:
        super().__init__()
        self.prepare, self.network, self.decode = NetworkTiles(), YoloNetwork(network), YoloDecode()

    def forward(
        self, image: Tensor, scale: float, tile_overlap: float, score_threshold: float
    ) -> tuple[Tensor, ...]:
        """Find the cells of ``image`` int32 ``[H, W, C]``; outputs as in ``YoloDecode``."""
        tiles, origins, tiling, _ = self.prepare(
            image, torch.tensor([scale]), torch.tensor([tile_overlap])
        )
        answers = [self.network(part) for part in tiles.split(TILES_AT_ONCE)]
        predictions, prototypes = (torch.cat(parts) for parts in zip(*answers, strict=True))
        decoded: tuple[Tensor, ...] = self.decode(
            predictions,
            prototypes,
            origins,
            tiling,
            torch.tensor([score_threshold]),
            torch.tensor([OVERLAP_THRESHOLD]),
            torch.tensor([DEFAULT_MAX_CELLS], dtype=torch.int32),
        )
        return decoded


def yolo_threshold(
    network: SegmentationModel, validation: AnnotatedDataset, scale: LearnedScale, seed: int
) -> ChosenThreshold:
    """Choose the score threshold of a network, see `training.evaluation`.

    Args:
        network: a trained network.
        validation: frames that were not used in training.
        scale: the scale that the network was trained at.
        seed: random seed of the empty frames.
    """
    pipeline = YoloPipeline(network).eval()
    overlap = scale.largest_cell_px * scale.network_scale

    def found(image: Tensor, common: float) -> Cells:
        with torch.inference_mode():
            answer = pipeline(image, scale.network_scale * common, overlap, LOWEST)
        boxes, scores, ids, probs, masks, count = (tensor.numpy() for tensor in answer[:6])
        height, width = image.shape[:2]
        names = validation.class_names
        return Cells(boxes, scores, ids, probs, masks, (height, width), names, int(count[0]))

    return choose_score_threshold(validation_frames(validation, found, scale, NETWORK_SIZE, seed))
