"""The same weights and frames served by what people reach for instead of this server.

\b
    make peers
    python -m benchmarks.peers --cells runs/general --targets runs/targets \\
        --classifier runs/classifier --json peers.json

Four other ways to have the cells of a frame found are measured beside this server, one run, one
machine, one after the other in turn:

\b
  study        what the study did: ultralytics' predictor and a loop over
               the cells, in one Python process that nothing is sent to
  ultralytics  ultralytics' own client of a Triton server, against ours;
               it can use no network but the raw one, and no pipeline
  litserve     the models in PyTorch behind LitServe, a few lines of
               code, with the batches that it forms
  bentoml      the same behind BentoML, which adapts its batches to the
               times that it sees

BentoML was chosen because it is kept up (its latest release is of October 2026), is Apache-2.0,
runs from `pip` with neither a cluster nor a registry, and forms batches. Of the others, MLServer
and TorchServe had no release in 2026, Ray Serve brings the scheduler of a cluster, and PyTriton is
the Triton that this server is built on.

Every server and client of a peer runs in an environment of its own, which `make peers` fills from a
lock file; a peer whose environment is not there is left out, and the result says so. Models have
every core, one worker, and the batches that the peer recommends. All are given the same frames, 8
bits and normalised beforehand, for that is what the study's images were; this server normalises
them once more. All end with boxes, classes and outlines of cells. Before a time is taken, the cells
must be the same: all but 2 % overlap one of the server's, and have its class. Of two outlines of
one cell this server tells by masks, the peers by boxes; and where a mask goes on beyond its box, it
moves the box out.

With `--variant` this server stands there once more, with that variant of its model repository,
whose arithmetic may leave 5 % of the cells with other boxes.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2

from benchmarks.approaches.__main__ import PIPELINES, Checkpoints
from benchmarks.harness.load import load_frame
from benchmarks.harness.options import (
    json_option,
    markdown_option,
    repository_option,
    variants_option,
)
from benchmarks.harness.results import new_result, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import DEFAULT, serve_without_health_checks
from benchmarks.harness.timing import time_interleaved
from benchmarks.peers.contenders import (
    SERVED,
    STUDY,
    WAYS,
    Caller,
    Contender,
    PeerFrame,
    Setting,
    served_as,
)
from benchmarks.peers.programs import (
    MissingEnvironment,
    PeerError,
    environment_of,
    installed_version,
)
from benchmarks.peers.raw_network import RAW_NETWORK, link_with_raw_network
from benchmarks.peers.same_answers import Agreement, DifferentAnswers, compare, hold
from benchmarks.peers.tables import peers_table
from cytoserve import Client, CytoserveError
from export.parity.reference import normalised_rgb
from server.errors import ServerError
from training.checkpoint import CheckpointError

SIZES = ((640, 480, 15), (640, 640, 30))
"""(width, height, cells) of the rendered frames: no larger than the network's field, in which all
ways see them alike. Larger ones the peers shrink, and this server cuts into tiles."""

CLIENTS = 8
"""Clients that ask at once."""

Case = tuple[str, tuple[int, int, int]]
"""A pipeline and the size of a frame."""


def measure(
    repository: Path,
    checkpoints: Checkpoints,
    names: Sequence[str],
    *,
    variants: Sequence[str] = (),
    pipelines: Sequence[str] = PIPELINES,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    repeats: int,
    requests: int,
    bursts: int,
    clients: int = CLIENTS,
) -> dict[str, Any]:
    """Start every way that is installed, compare the answers, then take times.

    Args:
        repository: a model repository with `yolo` and `yolo_resnet`.
        checkpoints: what it was exported from.
        names: peers to compare with.
        variants: of the repository, served beside the default and compared with the peers too.
        pipelines: `yolo`, `yolo_resnet` or both.
        sizes: (width, height, cells) of the frames.
        repeats: timed frames of one client.
        requests: frames that each client of a burst sends.
        bursts: timed bursts.
        clients: clients of a burst.

    Raises:
        CheckpointError: the repository serves other weights.
        DifferentAnswers: a way found other cells than the server.
        PeerError: a peer's program failed.
        ServerError: a variant cannot be served here.
    """
    chosen, left_out = installed_ways(names)
    chosen += map(served_as, variants)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        frames = {size: write_frame(folder, size) for size in sizes}
        served = (DEFAULT, *variants)
        urls = stack.enter_context(serve_all(repository, checkpoints, served, folder))
        setting = Setting(urls, link_checkpoints(checkpoints, folder), clients)
        askers = stack.enter_context(started(chosen, setting))
        cases = [(pipeline, size) for pipeline in pipelines for size in sizes]
        ways_of = {case: [w for w in chosen if case[0] in w.pipelines] for case in cases}
        agreements = {
            case: check_answers(ways, askers, case, frames[case[1]])
            for case, ways in ways_of.items()
        }
        rows = []
        for case, ways in ways_of.items():
            click.echo(f"Measuring {describe(case)}.", err=True)
            times = take_times(
                {way.name: askers[way.name] for way in ways},
                *(case[0], frames[case[1]]),
                repeats=repeats,
                requests=requests,
                bursts=bursts,
            )
            rows += case_rows(case, times, agreements[case])
    return new_result(
        "peers",
        clients=clients,
        repeats=repeats,
        requests=requests,
        bursts=bursts,
        ways=[describe_way(way) for way in chosen],
        left_out=[{"way": name, "reason": reason} for name, reason in left_out.items()],
        frames=rows,
    )


def installed_ways(names: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """The ways with those names whose environment is there, ours first; why others are not."""
    chosen, left_out = [SERVED], {}
    for way in WAYS:
        if way is SERVED or way.name not in names:
            continue
        try:
            if way.package is not None:
                environment_of(way.name)
            chosen.append(way)
        except MissingEnvironment as error:
            left_out[way.name] = str(error)
    return chosen, left_out


def write_frame(folder: Path, size: tuple[int, int, int]) -> PeerFrame:
    """Render a frame, normalise it and write it."""
    # Twice, after which the server's own normalisation, the third, leaves every pixel as it is.
    image = normalised_rgb(normalised_rgb(load_frame(*size).image))[:, :, 0]
    file = folder / f"{'-'.join(map(str, size))}.bmp"
    cv2.imwrite(str(file), image)
    return PeerFrame(image, file, file.read_bytes())


def link_checkpoints(checkpoints: Checkpoints, folder: Path) -> Path:
    """A folder in which the programs of peers find the checkpoints by their names."""
    links = folder / "checkpoints"
    links.mkdir()
    for name, path in vars(checkpoints).items():
        (links / name).symlink_to(path.resolve())
    return links


@contextmanager
def started(ways: Sequence[Contender], setting: Setting) -> Iterator[dict[str, Sequence[Caller]]]:
    """Start every way; yields its clients by its name."""
    with ExitStack() as stack:
        askers = {}
        for way in ways:
            click.echo(f"Starting {way.name}: {way.title}.", err=True)
            askers[way.name] = stack.enter_context(way.open(setting))
        yield askers


@contextmanager
def serve_all(
    repository: Path, checkpoints: Checkpoints, variants: Sequence[str], folder: Path
) -> Iterator[dict[str, str]]:
    """Serve some variants, the raw network beside the pipelines, each by a server of its own.

    Yields variant -> ``host:port``.
    """
    models = folder / "model_repository"
    models.mkdir()
    link_with_raw_network(repository, checkpoints.targets, models)
    with ExitStack() as stack:
        yield {
            variant: stack.enter_context(serve(models, checkpoints, variant))
            for variant in variants
        }


@contextmanager
def serve(repository: Path, checkpoints: Checkpoints, variant: str) -> Iterator[str]:
    """Serve both pipelines and the raw network, once it is sure that the weights are the same.

    Yields ``host:port``.
    """
    raw_too = ["--", f"--load-model={RAW_NETWORK}"]
    with serve_without_health_checks(repository, PIPELINES, variant, options=raw_too) as server:
        with Client(server.url) as client:
            check_weights(client, checkpoints.by_step())
        yield server.url


def check_answers(
    ways: Sequence[Contender],
    askers: Mapping[str, Sequence[Caller]],
    case: Case,
    frame: PeerFrame,
) -> dict[str, Agreement]:
    """Hold every way's cells of a frame against the server's."""
    ours = askers[SERVED.name][0].whole(case[0], frame)
    agreements = {}
    for way in ways:
        agreement = compare(ours, askers[way.name][0].whole(case[0], frame))
        hold(way.name, describe(case), len(ours), agreement, way.unmatched_share)
        agreements[way.name] = agreement
    return agreements


def take_times(
    askers: Mapping[str, Sequence[Caller]],
    pipeline: str,
    frame: PeerFrame,
    *,
    repeats: int,
    requests: int,
    bursts: int,
) -> dict[str, dict[str, float]]:
    """Contender -> median seconds per frame of one client, and frames per second of all at once."""

    def ask(asker: Caller, times: int) -> None:
        for _ in range(times):
            asker.timed(pipeline, frame)

    def burst(clients: Sequence[Caller]) -> None:
        with ThreadPoolExecutor(len(clients)) as pool:
            list(pool.map(partial(ask, times=requests), clients))

    alone = time_interleaved(
        {name: partial(ask, each[0], 1) for name, each in askers.items()}, repeats
    )
    together = time_interleaved(
        {name: partial(burst, each) for name, each in askers.items()}, bursts
    )
    return {
        name: {
            "seconds": statistics.median(alone[name]),
            "frames_per_second": len(each) * requests / statistics.median(together[name]),
        }
        for name, each in askers.items()
    }


def case_rows(
    case: Case, times: Mapping[str, Mapping[str, float]], agreements: Mapping[str, Agreement]
) -> list[dict[str, Any]]:
    """A row a way: its figures, and how they compare with the server's."""
    pipeline, (width, height, cells) = case
    ours = times[SERVED.name]
    return [
        {
            "pipeline": pipeline,
            "width": width,
            "height": height,
            "cells": cells,
            "way": way,
            **asdict(agreements[way]),
            **figures,
            "seconds_ratio": figures["seconds"] / ours["seconds"],
            "throughput_ratio": ours["frames_per_second"] / figures["frames_per_second"],
            **(
                {"times_the_study": times[STUDY.name]["seconds"] / figures["seconds"]}
                if STUDY.name in times
                else {}
            ),
        }
        for way, figures in times.items()
    ]


def describe(case: Case) -> str:
    """A case in words."""
    pipeline, (width, height, cells) = case
    return f"{pipeline} on {width} x {height} px with {cells} cells"


def describe_way(way: Contender) -> dict[str, str]:
    """A way and the version of what it stands for."""
    version = (
        "" if way.package is None else installed_version(environment_of(way.name), way.package)
    )
    return {"way": way.name, "title": way.title, "version": version}


def _checkpoint(name: str, text: str) -> Callable[[Any], Any]:
    path = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option(name, type=path, required=True, help=f"Checkpoint of {text}.")


@click.command(help=__doc__, context_settings={"show_default": True})
@_checkpoint("--cells", "the one-class network (`yolo_cells`)")
@_checkpoint("--targets", "the fine-tuned network (`yolo_targets`)")
@_checkpoint("--classifier", "the classifier (`resnet50_cells`)")
@json_option
@markdown_option
@repository_option
@click.option(
    "--peer",
    "names",
    type=click.Choice([way.name for way in WAYS if way is not SERVED]),
    multiple=True,
    default=[way.name for way in WAYS if way is not SERVED],
    help="Compare with it; may be repeated.",
)
@variants_option
@click.option("--repeats", type=click.IntRange(1), default=24, help="Timed frames of one client.")
@click.option("--bursts", type=click.IntRange(1), default=2, help="Timed bursts of all clients.")
@click.option("--requests", type=click.IntRange(1), default=2, help="Frames a client and burst.")
def main(
    cells: Path,
    targets: Path,
    classifier: Path,
    json_file: Path,
    markdown: Path | None,
    model_repository: Path,
    names: Sequence[str],
    variants: Sequence[str],
    repeats: int,
    bursts: int,
    requests: int,
) -> None:
    """Measure all ways; the module's docstring is the help."""
    try:
        result = measure(
            model_repository,
            Checkpoints(cells, targets, classifier),
            names,
            variants=variants,
            repeats=repeats,
            requests=requests,
            bursts=bursts,
        )
    except (
        *(CheckpointError, CytoserveError, DifferentAnswers, FileNotFoundError),
        *(PeerError, ServerError),
    ) as error:
        raise click.ClickException(str(error)) from error
    write_result(result, peers_table(result), json_file, markdown)


if __name__ == "__main__":
    main()
