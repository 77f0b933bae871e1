"""The progress of a run on the terminal, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochProgress:
    """Progress of one run of ``epochs`` epochs, on stderr; a context manager."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("steps", total=None)

    def __enter__(self) -> EpochProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, steps_per_epoch: int, epochs_done: int) -> None:
        """Set the length of the run, and the position of a resumed one."""
        self._bar.update(
            self._task,
            total=self.epochs * steps_per_epoch,
            completed=epochs_done * steps_per_epoch,
        )

    def step(self) -> None:
        """Count one step."""
        self._bar.advance(self._task)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Print the figures of a complete epoch; ``number`` counts from 1."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.console.print(f"epoch {number}/{self.epochs}  {shown}", highlight=False)
