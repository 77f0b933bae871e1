"""Export trained checkpoints into the model repository.

    python -m export yolo        --targets runs/targets
    python -m export yolo_resnet --cells runs/general --classifier runs/classifier
    python -m export lint

A graph is installed only when ONNX Runtime and torch give the same numbers for it, and the whole
chain of a pipeline those of ultralytics and torchvision. Versions appear complete or not at all.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cytoserve.model_config import ModelConfigError
from export.frames import parity_frames
from export.install import RepositoryBusyError
from export.lint import lint_repository
from export.parity import ParityError
from export.pipelines import export_yolo, export_yolo_resnet, install_pipeline
from training.checkpoint import CheckpointError

Command = TypeVar("Command", bound=Callable[..., Any])

REPOSITORY = click.option(
    "--model-repository",
    "repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="model_repository",
    show_default=True,
    help="Where the hand-written configs are and the versions go.",
)
FRAMES = click.option(
    "--frames",
    type=click.Path(path_type=Path, exists=True),
    help="Image file or folder to prove the chain on. Default: frames that the checkpoint was "
    "trained on, or rendered ones where those are gone.",
)
FAILURES = (CheckpointError, ModelConfigError, ParityError, RepositoryBusyError, OSError)
"""What a user can mend; anything else is a defect and keeps its traceback."""

MESSAGE_LENGTH = 600
"""torch lists every tensor that does not fit a network; the first few tell enough."""


class ExportGroup(click.Group):
    """Commands whose expected failures end in one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was chosen."""
        try:
            return super().invoke(ctx)
        except FAILURES as error:
            message = textwrap.shorten(str(error), MESSAGE_LENGTH, placeholder=" …")
            raise click.ClickException(message) from error


def _checkpoint(name: str, text: str) -> Callable[[Command], Command]:
    path = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option(name, type=path, required=True, help=text)


@click.group(cls=ExportGroup, help=__doc__)
def main() -> None:
    """Export commands; the module's docstring is the help."""


@main.command()
@_checkpoint("--targets", "Checkpoint of `python -m training.yolo fine-tune`.")
@REPOSITORY
@FRAMES
def yolo(targets: Path, repository: Path, frames: Path | None) -> None:
    """Pipeline `yolo`: a network fine-tuned to the target classes."""
    chosen = parity_frames(frames, targets)
    pipeline = export_yolo(targets, _say)
    _report(install_pipeline(pipeline, repository, chosen, _command(), _say))


@main.command("yolo_resnet")
@_checkpoint("--cells", "Checkpoint of `python -m training.yolo general`.")
@_checkpoint("--classifier", "Checkpoint of `python -m training.resnet`.")
@REPOSITORY
@FRAMES
def yolo_resnet(cells: Path, classifier: Path, repository: Path, frames: Path | None) -> None:
    """Pipeline `yolo_resnet`: a one-class network, then a classifier on every cell."""
    chosen = parity_frames(frames, cells)
    pipeline = export_yolo_resnet(cells, classifier, _say)
    _report(install_pipeline(pipeline, repository, chosen, _command(), _say))


@main.command()
@REPOSITORY
def lint(repository: Path) -> None:
    """Compare every config.pbtxt with Triton's schema, the contract and the exported graphs."""
    problems = lint_repository(repository)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise click.ClickException(f"{len(problems)} problems in {repository}")
    click.echo(f"{repository}: every config agrees with schema, contract and graphs")


def _command() -> list[str]:
    return ["python", "-m", "export", *sys.argv[1:]]


def _say(text: str) -> None:
    click.echo(text, err=True)


def _report(folders: list[Path]) -> None:
    for folder in folders:
        click.echo(str(folder))


if __name__ == "__main__":
    main(prog_name="python -m export")
