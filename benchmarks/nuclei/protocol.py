"""Runs study S3's protocol: both U-Nets on its nine sets of tiles, for tables like its own.

\b
    python -m benchmarks.nuclei.protocol --data data/BreCaHAD --out runs/nuclei-protocol

Frames are cleaned and cut (`training.nuclei_tiles`). The networks are trained, and tested on the
held-out cases (`training.unet nuclei`). Every training leaves an ordinary checkpoint in
OUT/<set>/<network>. `--settings` changes all trainings, `--set-settings SET=FILE` those of one set:
whole frames need smaller batches than tiles.

The same command continues an interrupted run: OUT holds what is finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.harness.results import KeptResults, made_by, write_result
from benchmarks.nuclei.result import NucleiProtocolResult, protocol_page
from benchmarks.nuclei.runs import Protocol, run_scores
from benchmarks.published import S3, S3_NETWORKS
from training.datasets.readers.brecahad import RADIUS, read_brecahad
from training.nuclei_tiles import SETS
from training.run.command_line import SETTINGS_HELP, choose_settings
from training.unet.settings import NUCLEI_PRESETS, UnetSettings


def measure(
    protocol: Protocol, set_names: Sequence[str], networks: Sequence[str]
) -> NucleiProtocolResult:
    """Train and test what is not cached yet, and gather the figures.

    Raises:
        ValueError: data, settings or cached results do not fit, see `benchmarks.nuclei.runs`.
    """
    runs = []
    plan = [(name, network) for name in set_names for network in networks]
    for number, (name, network) in enumerate(plan, start=1):

        def say(text: str, number: int = number) -> None:
            click.echo(f"[{number}/{len(plan)}] {text}", err=True)

        runs.append(run_scores(protocol, name, network, say))
    return NucleiProtocolResult(
        **made_by("nuclei.protocol"),
        runs=tuple(runs),
        frames=len(protocol.frames),
        test_cases=tuple(protocol.tested),
        radius=protocol.radius,
    )


def read_set_settings(
    texts: Sequence[str], set_names: Sequence[str], common: UnetSettings
) -> Mapping[str, UnetSettings]:
    """Return settings by set, from arguments ``SET=FILE``.

    Raises:
        click.UsageError: an argument does not have that form, names no set, or has an invalid file.
    """
    settings = dict.fromkeys(set_names, common)
    for text in texts:
        name, equals, file = text.partition("=")
        if name not in SETS or not equals:
            raise click.UsageError(
                f"--set-settings takes SET=FILE, SET one of {', '.join(SETS)}; got {text}."
            )
        if name in settings:
            settings[name] = choose_settings({name: settings[name]}, name, Path(file))
    return settings


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of images/ and groundTruth/, as BreCaHAD's authors lay it out.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where runs are kept.")
@click.option("--set", "set_names", type=click.Choice(list(SETS)), multiple=True, default=list(S3))
@click.option(
    "--network", "networks", type=click.Choice(S3_NETWORKS), multiple=True, default=S3_NETWORKS
)
@click.option(
    "--test-case", "test_cases", multiple=True, help="Default: drawn, 20 % of the frames."
)
@click.option(
    "--radius", type=click.FloatRange(0, min_open=True), default=RADIUS, help="In pixels."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of cases and training.")
@click.option("--preset", type=click.Choice(list(NUCLEI_PRESETS)), default="study")
@click.option("--settings", "file", type=click.Path(path_type=Path), help=SETTINGS_HELP)
@click.option("--set-settings", multiple=True, help="SET=FILE: further settings, of one set.")
@click.option("--epochs", type=int, help="Passes over the tiles.")
@click.option("--bf16/--no-bf16", default=None, help="Mixed precision in bfloat16.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Default: in OUT.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Default: in OUT.")
def main(
    data: Path,
    out: Path,
    set_names: tuple[str, ...],
    networks: tuple[str, ...],
    test_cases: tuple[str, ...],
    radius: float,
    seed: int,
    preset: str,
    file: Path | None,
    set_settings: tuple[str, ...],
    json_file: Path | None,
    markdown: Path | None,
    **overrides: Any,
) -> None:
    """Run the protocol; the module's docstring is the help."""
    common = choose_settings(NUCLEI_PRESETS, preset, file, **overrides)
    settings = read_set_settings(set_settings, set_names, common)
    try:
        frames = read_brecahad(data)
        protocol = Protocol(frames, radius, test_cases or None, seed, settings, KeptResults(out))
        protocol.begin()
        result = measure(protocol, set_names, networks)
    except KeyboardInterrupt as error:
        raise click.ClickException(
            f"interrupted. {out} keeps what is finished: the same command goes on."
        ) from error
    except (ValueError, OSError) as error:  # AnnotationError and OtherProtocolError among them
        raise click.ClickException(str(error)) from error
    write_result(
        result,
        protocol_page(result),
        json_file or out / "result.json",
        markdown or out / "result.md",
    )


if __name__ == "__main__":
    main()
