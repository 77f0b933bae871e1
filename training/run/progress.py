"""Messages of a run: first its data and device, then its progress, epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.datasets.annotated import AnnotatedDataset

if TYPE_CHECKING:
    import torch

LINE_SECONDS = 60.0
"""Seconds between two lines of progress where stderr is no terminal."""

_SPEED_SECONDS = 600.0
"""Seconds over which the time that is left is estimated: steps take up to minutes each, and the
validation between two epochs counts too."""


def describe_frames(train: AnnotatedDataset, validation: AnnotatedDataset) -> str:
    """Describe the frames of a run, and their cells by class, in one line."""
    parts = [(len(part.frames), part.cells_per_class()) for part in (train, validation)]
    return describe_data("frames", *parts)


def describe_data(
    unit: str, train: tuple[int, Mapping[str, int]], validation: tuple[int, Mapping[str, int]]
) -> str:
    """Describe the data of a run in one line.

    Args:
        unit: what is counted: ``frames``, ``crops`` or ``tiles``.
        train: their number to train on, and the cells or crops of each class there; a unit without
            classes has none.
        validation: the same of those to validate on.
    """
    shown = []
    for count, classes in (train, validation):
        inside = ", ".join(f"{number} {name}" for name, number in classes.items())
        shown.append(f"{count} {unit}" + (f" ({inside})" if inside else ""))
    return f"trained on {shown[0]}, validated on {shown[1]}"


def describe_device(device: torch.device, *, bf16: bool, processes: int = 1) -> str:
    """Name the device of a run and its precision: a CPU by its threads, a GPU by its name.

    A device is that of each process, if several train together.
    """
    import torch

    name = device.type
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        name = f"CPU, {torch.get_num_threads()} threads"
    together = f"{processes} processes, each on " if processes > 1 else ""
    return f"{together}{name}, {'bfloat16 mixed precision' if bf16 else 'float32'}"


class EpochProgress:
    """Progress of one run of ``epochs`` epochs, on stderr; a context manager.

    On a terminal it is a bar. Elsewhere it is a line a minute, since nobody sees a bar in a log. If
    ``quiet`` is set, it is nothing.

    Args:
        epochs: number of epochs of the run.
        minutes: minutes of the run, if these limit it instead of the epochs.
        clock: seconds that only grow; a test gives its own.
    """

    def __init__(
        self,
        epochs: int,
        minutes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epochs = epochs
        self.minutes = minutes
        self.quiet = False
        self._clock = clock
        self._left = TimeRemainingColumn()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            self._left,
            console=Console(stderr=True),
            transient=True,
            get_time=clock,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._task = self._bar.add_task("steps" if minutes is None else "seconds", total=None)
        self._steps_per_epoch = 1
        self._steps = 0
        self._said = self._began = clock()

    def __enter__(self) -> EpochProgress:
        if self._bar.console.is_terminal and not self.quiet:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()

    def begin(
        self, steps_per_epoch: int, epochs_done: int, device: str, seconds_done: float = 0.0
    ) -> None:
        """Set the length of the run and the position of a resumed one, and print both.

        Args:
            steps_per_epoch: number of steps of an epoch.
            epochs_done: number of epochs that a resumed run has done.
            device: what :func:`describe_device` tells.
            seconds_done: seconds that a resumed run has taken, if minutes limit it.
        """
        self._steps_per_epoch = max(1, steps_per_epoch)
        self._steps = epochs_done * steps_per_epoch
        self._said = self._clock()
        self._began = self._said - seconds_done
        total, completed = self.epochs * steps_per_epoch, self._steps
        length = f"{self.epochs} epochs of {steps_per_epoch} steps"
        done = f", {epochs_done} of them done" if epochs_done else ""
        if self.minutes is not None:
            total, completed = round(60 * self.minutes), round(seconds_done)
            length = f"{self.minutes:g} minutes in epochs of {steps_per_epoch} steps"
            done = f", {timedelta(seconds=completed)} of them done" if completed else ""
        self._bar.update(self._task, total=total, completed=completed)
        self._print(f"{device}; {length}{done}")

    def step(self) -> None:
        """Count one step."""
        self._steps += 1
        if self.minutes is None:
            self._bar.advance(self._task)
        else:
            self._bar.update(self._task, completed=round(self._clock() - self._began))
        self.say()

    def say(self) -> None:
        """Print a line if stderr is no terminal and the last line is a minute old."""
        now = self._clock()
        if self._bar.console.is_terminal or now - self._said < LINE_SECONDS:
            return
        self._said = now
        epoch, step = divmod(max(self._steps - 1, 0), self._steps_per_epoch)
        left = str(self._left.render(self._bar.tasks[0]))
        if self.minutes is not None:
            seconds = max(0, round(60 * self.minutes - (now - self._began)))
            left = str(timedelta(seconds=seconds))
        self._print(
            f"{self._name(epoch + 1)}, step {step + 1}/{self._steps_per_epoch}, {left} left"
        )

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Print the figures of a complete epoch; ``number`` counts from 1."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._print(f"{self._name(number)}  {shown}")

    def _name(self, epoch: int) -> str:
        """Name an epoch; nobody knows how many there are if minutes limit the run."""
        return f"epoch {epoch}" if self.minutes is not None else f"epoch {epoch}/{self.epochs}"

    def _print(self, line: str) -> None:
        """Print a line whole: off a terminal, rich would break it at 80 characters."""
        if self.quiet:
            return
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
