"""Render a data set: ``python -m training.rendered OUT --frames 24 --cells 15 --seed 0``."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from training.rendered import CrowdedFrameError, RenderSettings, render_dataset

Command = Callable[..., None]


def settings_options(command: Command) -> Command:
    """Add one option per field of RenderSettings, with its default and description."""
    for name, field in reversed(RenderSettings.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        kind: Any = field.annotation
        if typing.get_origin(kind) is typing.Literal:
            kind = click.Choice(typing.get_args(kind))
        switch = {"is_flag": True} if kind is bool else {"type": kind}
        command = click.option(
            flag, default=field.default, show_default=True, help=field.description, **switch
        )(command)
    return command


@click.command(context_settings={"show_default": True})
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--frames", default=24, type=click.IntRange(min=1), help="number of frames")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="same seed, same bytes")
@click.option(
    "--prefix", default="frame", help="start of the file names; training takes no two alike"
)
@settings_options
def main(out: Path, frames: int, seed: int, prefix: str, **options: Any) -> None:
    """Render phase-contrast frames of spread and round cells into the folder OUT.

    OUT becomes a COCO data set: images/frame_0000.png ... (uint16) and instances.json with the
    exact masks and classes.
    """
    try:
        settings = RenderSettings(**options)
        with click.progressbar(length=frames, label="Rendering") as bar:
            render_dataset(
                out,
                frames=frames,
                settings=settings,
                seed=seed,
                prefix=prefix,
                on_frame=lambda: bar.update(1),
            )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise click.BadParameter(
            f"{first['msg']}, given: {first['input']}", param_hint=flag
        ) from None
    except (CrowdedFrameError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{frames} frames in {out}")


if __name__ == "__main__":
    main()
