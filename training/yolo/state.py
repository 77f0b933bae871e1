"""State from which an interrupted YOLO training can resume, as one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cytoserve.files import write_atomically
from training.checkpoint import CheckpointError

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
        )


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
