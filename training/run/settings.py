"""Settings that the trainings of all families share."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field


class RunSettings(BaseModel):
    """How long a training runs, and in which precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Minutes to train for, however many epochs that is; None trains the epochs."""
    bf16: bool = False
    """Mixed precision in bfloat16: faster on CPUs with AVX512-BF16 or AMX, and on GPUs."""


class ParallelSettings(RunSettings):
    """How long, in which precision and on how many devices a training by Lightning runs."""

    devices: int = Field(1, gt=0)
    """Number of GPUs per machine, or of processes where there is none. Each computes batches of its
    own, and a step uses the mean of their gradients: it sees devices x nodes x batch samples."""
    nodes: int = Field(1, gt=0)
    """Number of machines."""

    @property
    def is_secondary(self) -> bool:
        """Whether this process only helps another, which alone prints and writes files.

        Lightning starts the processes of a machine by the same command, with their number in the
        environment.
        """
        if self.devices * self.nodes == 1:
            return False
        for name in ("RANK", "SLURM_PROCID"):
            if name in os.environ:
                return os.environ[name] != "0"
        return any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "NODE_RANK"))
