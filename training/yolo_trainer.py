"""ultralytics' segmentation trainer with safetensors in place of its pickled checkpoints."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from training.checkpoint import CheckpointError
from training.yolo_network import SegmentationModel, new_network, transfer

from ultralytics.models.yolo.segment import SegmentationTrainer  # isort: skip  # after yolo_network, which keeps ultralytics offline
from ultralytics.utils.torch_utils import ModelEMA  # isort: skip

logger = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"


class YoloTrainer(SegmentationTrainer):  # type: ignore[misc]  # ultralytics ships no types
    """Trains from plain tensors and keeps the best weights in memory and on disk as tensors.

    Args:
        overrides: ultralytics' settings.
        initial: weights to start from; tensors that do not fit (the class heads) stay random.
        continue_from: folder of a state that an interrupted run left, or None.
        bf16: train in mixed precision, see `Bf16Network`.
    """

    def __init__(
        self,
        overrides: dict[str, Any],
        initial: dict[str, torch.Tensor] | None,
        continue_from: Path | None,
        bf16: bool,
    ) -> None:
        self.bf16 = bf16
        self.initial = initial
        self.continue_from = continue_from
        self.best_weights: dict[str, torch.Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        super().__init__(overrides=overrides)
        self.log = SummaryWriter(str(self.save_dir / "log"))
        self.add_callback("on_fit_epoch_end", _log_epoch)
        self.add_callback("on_train_end", lambda trainer: trainer.log.close())

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the network and take over the initial weights."""
        network: SegmentationModel = new_network(self.data["nc"], bf16=self.bf16)
        if self.initial is not None:
            taken = transfer(network, self.initial)
            logger.info("%d of %d tensors initialised", taken, len(network.state_dict()))
        return network

    def resume_training(self, ckpt: Any) -> None:
        """Go on after the last whole epoch of an interrupted run."""
        if self.continue_from is None:
            return
        file = self.continue_from / STATE_FILE
        if not file.is_file():
            raise CheckpointError(f"{file}: there is no interrupted run to resume; omit --resume.")
        state = load_file(file)
        with safe_open(file, framework="pt") as opened:
            facts = json.loads(opened.metadata()["state"])
        if facts["epoch"] + 1 >= self.epochs:
            raise CheckpointError(
                f"{file} stands at epoch {facts['epoch'] + 1} of {self.epochs}: nothing is left to "
                "resume. Give more --epochs, or omit --resume."
            )
        self.model.load_state_dict(_under("model.", state))
        self.ema = ModelEMA(self.model)
        self.ema.ema.load_state_dict(_under("ema.", state))
        self.ema.updates = facts["updates"]
        self.best_weights, self.best_metrics = _under("best.", state), facts["best_metrics"]
        self.best_fitness, self.start_epoch = facts["best_fitness"], facts["epoch"] + 1
        self.optimizer.load_state_dict(
            {"state": _nested(_under("optimizer.", state)), "param_groups": facts["param_groups"]}
        )

    def save_model(self) -> bool:
        """Keep the averaged weights of the best epoch, and the state that `--resume` needs."""
        averaged = {k: v.clone() for k, v in self.ema.ema.state_dict().items()}
        if self.best_fitness == self.fitness or not self.best_weights:
            self.best_weights = averaged
            self.best_metrics = {k: float(v) for k, v in self.metrics.items()}
        optimizer = self.optimizer.state_dict()
        tensors = {
            **{f"model.{k}": v for k, v in self.model.state_dict().items()},
            **{f"ema.{k}": v for k, v in averaged.items()},
            **{f"best.{k}": v.clone() for k, v in self.best_weights.items()},
            **{
                f"optimizer.{index}.{key}": torch.as_tensor(value)
                for index, entry in optimizer["state"].items()
                for key, value in entry.items()
                if value is not None
            },
        }
        facts = {
            "epoch": self.epoch,
            "updates": self.ema.updates,
            "best_fitness": float(self.best_fitness),
            "best_metrics": self.best_metrics,
            "param_groups": optimizer["param_groups"],
        }
        folder = self.save_dir / "resume"
        folder.mkdir(exist_ok=True)
        part = folder / f"{STATE_FILE}.part"
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, part, metadata={"state": json.dumps(facts)})
        part.replace(folder / STATE_FILE)
        return True

    def final_eval(self) -> None:
        """Nothing: the best weights were validated at their epoch and are no pickle on disk."""

    def _handle_nan_recovery(self, epoch: int) -> bool:
        if self.loss is not None and not self.loss.isfinite():
            raise ValueError(
                f"the loss is {float(self.loss)} in epoch {epoch + 1}: training diverged. Lower "
                "learning_rate, or go on from the last good epoch with --resume and new settings."
            )
        return False


def _log_epoch(trainer: YoloTrainer) -> None:
    losses = trainer.label_loss_items(trainer.tloss)
    for name, value in {**losses, **trainer.metrics, **trainer.lr}.items():
        trainer.log.add_scalar(name, float(value), trainer.epoch + 1)


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _nested(tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    """``"3.exp_avg" -> tensor`` to ``{3: {"exp_avg": tensor}}``, as optimizers want it."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
