"""The folder of one training run: started, interrupted and resumed, finished.

OUT/log is for TensorBoard and OUT/resume holds what `--resume` needs until the run is finished;
OUT itself is the checkpoint, written at the end.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.checkpoint import CheckpointError, Recipe, save_checkpoint
from training.evaluation import draw_threshold

if TYPE_CHECKING:
    import torch

STATE_NAME = "last.ckpt"
"""State of an interrupted run of Lightning, below ``resume/``."""


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    ``state_name`` is the file below ``resume/`` that is written after every epoch. Its format is up
    to the trainer. A ``quiet`` process helps another to train, and leaves words and files to it.
    """

    out: Path
    state_name: str
    quiet: bool = False

    @property
    def log(self) -> Path:
        """Folder of the log for TensorBoard."""
        return self.out / "log"

    @property
    def state(self) -> Path:
        """File with the state after the last complete epoch."""
        return self.out / "resume" / self.state_name

    @property
    def _facts(self) -> Path:
        return self.state.parent / "run.json"

    def begin(self, facts: Mapping[str, Any], *, resume: bool) -> None:
        """Discard an earlier run, or check that the one to resume was started with ``facts``.

        Raises:
            CheckpointError: there is nothing to resume, or a different run was started in this
                folder.
        """
        if self.quiet:
            return
        facts = json.loads(json.dumps(facts))
        if not resume:
            shutil.rmtree(self.log, ignore_errors=True)
            shutil.rmtree(self.state.parent, ignore_errors=True)
            self.state.parent.mkdir(parents=True)
            self._facts.write_text(json.dumps(facts, indent=2) + "\n")
            return
        if not self.state.is_file() or not self._facts.is_file():
            raise CheckpointError(
                f"{self.out}: there is no interrupted run to resume, with one whole epoch at "
                "least; omit --resume and --finish."
            )
        before = json.loads(self._facts.read_text())
        changed = [name for name, value in facts.items() if value != before.get(name)]
        if changed:
            raise CheckpointError(
                f"{self.out}: a resumed run goes on as it was begun, but now differs in "
                + "".join(f"\n  {n}: begun with {before.get(n)}, now {facts[n]}" for n in changed)
                + "\nGive the same options and data, or begin anew: omit --resume, or name another "
                "--out."
            )

    def finish(self, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> None:
        """Write the checkpoint, its threshold as a picture, and remove what only resuming needs."""
        save_checkpoint(self.out, weights, recipe)
        if recipe.threshold is not None:
            draw_threshold(recipe.threshold, self.out)
        shutil.rmtree(self.state.parent)

    def report(self, recipe: Recipe) -> None:
        """Print what the run has made: classes, metrics and threshold; warn if it is nothing."""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in recipe.metrics.items())
        click.echo(f"checkpoint {self.out}: {', '.join(recipe.class_names)}; {metrics}")
        chosen = recipe.threshold
        if chosen is not None:
            kind = "score" if chosen.metric == "F1" else "probability"
            best = f"{chosen.metric} {max(chosen.best):.3f} in validation"
            click.echo(f"{kind} threshold {chosen.value:g}, {best}")
        seen = nothing_learned(recipe)
        if seen:
            click.echo(f"warning: {seen}. {REMEDY}", err=True)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Turn an error that ends a run into a message; on Ctrl-C, say how to go on.

        A quiet process says nothing. What is wrong with the data or the options, another says.
        """
        try:
            if self.quiet:
                with (
                    Path(os.devnull).open("w") as nowhere,
                    redirect_stdout(nowhere),
                    redirect_stderr(nowhere),
                ):
                    yield
            else:
                yield
        except KeyboardInterrupt as error:
            raise click.ClickException(
                f"interrupted. {self.state.parent} keeps the last whole epoch: go on with the same "
                "command and --resume, or take the best epoch so far with --finish instead."
                if self.state.is_file()
                else "interrupted before the first epoch was whole; there is nothing to resume."
            ) from error
        except (ValueError, OSError) as error:  # CheckpointError and AnnotationError among them
            if self.quiet and isinstance(error, ValueError):
                raise SystemExit(1) from error
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise click.ClickException(
                    f"the disk of {self.out} is full ({error}). Free some space, then "
                    + ("go on with --resume." if self.state.is_file() else "start again.")
                ) from error
            raise click.ClickException(str(error)) from error


LEAST_SCORE = 0.1
"""F1, Dice or IoU on the validation frames below which a network has learned next to nothing."""

REMEDY = (
    "The network has learned next to nothing, so do not use it as it is. Train for more epochs "
    "(--epochs), start from trained weights (--init), or look at the annotations: they may not lie "
    "on the cells."
)


def nothing_learned(recipe: Recipe) -> str | None:
    """Tell by which figure of the validation a network has learned nothing; None if it has learned.

    The figures are F1 or Dice at the chosen threshold, the balanced accuracy of a classifier
    beside that of guessing, and the mean IoU of SAM's masks for true boxes.
    """
    chosen = recipe.threshold
    if chosen is not None and max(chosen.best) < LEAST_SCORE:
        return f"the best {chosen.metric} in validation is {max(chosen.best):.3f}"
    classes = len(recipe.class_names)
    balanced, overlap = (recipe.metrics.get(name) for name in ("balanced_accuracy", "box_iou"))
    if balanced is not None and classes > 1 and balanced <= 1 / classes + 1e-6:
        return (
            f"the balanced accuracy in validation is {balanced:.3f}, and guessing one of {classes} "
            f"classes reaches {1 / classes:.3f}"
        )
    if overlap is not None and overlap < LEAST_SCORE:
        return f"the mean IoU of the masks for true boxes is {overlap:.3f}"
    return None
