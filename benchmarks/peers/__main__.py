"""Compares this server with what people use instead, on the same weights and frames.

\b
    make peers
    python -m benchmarks.peers --cells runs/general --targets runs/targets \\
        --classifier runs/classifier --json peers.json

Three other contenders find the cells of a frame, interleaved with this server, in one run on one
machine:

\b
  study        the reference implementation: ultralytics' predictor and a
               loop over the cells, in one Python process without a server
  ultralytics  ultralytics' own client of a Triton server, against ours;
               it can use only the raw network, and no pipeline
  litserve     the models in PyTorch behind LitServe, a few lines of
               code, with the batches that it forms

LitServe stands for servers of Python code: it is maintained, is Apache-2.0, runs from `pip` without
a cluster or a registry, and forms batches. Of the others, MLServer and TorchServe had no release in
2026, Ray Serve brings the scheduler of a cluster, and PyTriton is the Triton that this server is
built on.

Every server and client of a peer runs in its own environment, which `make peers` fills from a lock
file. A peer without an environment is left out, and the result says so. Models have every core, one
worker, and the batches that the peer recommends. All contenders get the same frames, in 8 bits and
normalised beforehand, as the study's images were. This server normalises them once more. All return
boxes, classes and outlines of cells. Before any time is measured, the cells must be the same: all
but 2 % overlap one of the server's cells, and have its class. To decide between two outlines of one
cell, this server compares masks, the peers boxes. If a mask extends beyond its box, this server
enlarges the box.

`--variant` adds this server once more, with that variant of its model repository. The variant's
arithmetic may leave 5 % of the cells with other boxes.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click
import cv2

from benchmarks.approaches.__main__ import PIPELINES, Checkpoints
from benchmarks.harness.load import load_frame
from benchmarks.harness.options import (
    checkpoint_option,
    json_option,
    markdown_option,
    repository_option,
    variants_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import time_interleaved
from benchmarks.peers.contenders import (
    CONTENDERS,
    SERVED,
    STUDY,
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
from benchmarks.peers.result import (
    Agreement,
    LeftOut,
    PeerRow,
    PeersResult,
    WayRow,
    peers_page,
)
from benchmarks.peers.same_answers import DifferentAnswers, compare, hold
from cytoserve import Client, CytoserveError
from export.parity.reference import normalised_rgb
from server.errors import ServerError
from server.variants import DEFAULT
from training.checkpoint import CheckpointError

SIZES = ((640, 480, 15), (640, 640, 30))
"""(width, height, cells) of the rendered frames, sides in pixels. They fit into the network's field
so that all contenders see them alike. The peers shrink larger frames, this server tiles them."""

CLIENTS = 8
"""Number of clients that ask at once."""

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
) -> PeersResult:
    """Start every installed contender, compare the answers, then measure times.

    Args:
        repository: a model repository with `yolo` and `yolo_resnet`.
        checkpoints: weights that it was exported from.
        names: peers to compare with.
        variants: variants of the repository that are compared as well.
        pipelines: `yolo`, `yolo_resnet` or both.
        sizes: (width, height, cells) of the frames.
        repeats: number of timed frames of one client.
        requests: number of frames that each client of a burst sends.
        bursts: number of timed bursts.
        clients: number of clients in a burst.

    Raises:
        CheckpointError: the repository serves other weights.
        DifferentAnswers: a contender found other cells than the server.
        PeerError: a peer's program failed.
        ServerError: a variant cannot be served here.
    """
    chosen, left_out = installed_contenders(names)
    chosen += map(served_as, variants)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        frames = {size: write_frame(folder, size) for size in sizes}
        served = (DEFAULT, *variants)
        urls = stack.enter_context(serve_all(repository, checkpoints, served, folder))
        setting = Setting(urls, link_checkpoints(checkpoints, folder), clients)
        askers = stack.enter_context(started(chosen, setting))
        cases = [(pipeline, size) for pipeline in pipelines for size in sizes]
        able = {case: [c for c in chosen if case[0] in c.pipelines] for case in cases}
        agreements = {
            case: check_answers(contenders, askers, case, frames[case[1]])
            for case, contenders in able.items()
        }
        rows: list[PeerRow] = []
        for case, contenders in able.items():
            click.echo(f"Measuring {describe(case)}.", err=True)
            times = take_times(
                {contender.name: askers[contender.name] for contender in contenders},
                *(case[0], frames[case[1]]),
                repeats=repeats,
                requests=requests,
                bursts=bursts,
            )
            rows += case_rows(case, times, agreements[case])
    return PeersResult(
        **made_by("peers"),
        clients=clients,
        repeats=repeats,
        requests=requests,
        bursts=bursts,
        ways=tuple(describe_contender(contender) for contender in chosen),
        left_out=tuple(LeftOut(way=name, reason=reason) for name, reason in left_out.items()),
        frames=tuple(rows),
    )


def installed_contenders(names: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """Return the named contenders with an environment, ours first, and why others are left out."""
    chosen, left_out = [SERVED], {}
    for contender in CONTENDERS:
        if contender is SERVED or contender.name not in names:
            continue
        try:
            if contender.package is not None:
                environment_of(contender.name)
            chosen.append(contender)
        except MissingEnvironment as error:
            left_out[contender.name] = str(error)
    return chosen, left_out


def write_frame(folder: Path, size: tuple[int, int, int]) -> PeerFrame:
    """Render a frame, normalise it and write it to a file."""
    # After two normalisations, the server's own, the third, leaves every pixel as it is.
    image = normalised_rgb(normalised_rgb(load_frame(*size).image))[:, :, 0]
    file = folder / f"{'-'.join(map(str, size))}.bmp"
    cv2.imwrite(str(file), image)
    return PeerFrame(image, file, file.read_bytes())


def link_checkpoints(checkpoints: Checkpoints, folder: Path) -> Path:
    """Make a folder in which the programs of peers find the checkpoints by name."""
    links = folder / "checkpoints"
    links.mkdir()
    for name, path in vars(checkpoints).items():
        (links / name).symlink_to(path.resolve())
    return links


@contextmanager
def started(
    contenders: Sequence[Contender], setting: Setting
) -> Iterator[dict[str, Sequence[Caller]]]:
    """Start every contender; yield contender -> its clients."""
    with ExitStack() as stack:
        askers = {}
        for contender in contenders:
            click.echo(f"Starting {contender.name}: {contender.title}.", err=True)
            askers[contender.name] = stack.enter_context(contender.open(setting))
        yield askers


@contextmanager
def serve_all(
    repository: Path, checkpoints: Checkpoints, variants: Sequence[str], folder: Path
) -> Iterator[dict[str, str]]:
    """Serve each variant by a separate server, with the raw network beside the pipelines.

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
    """Serve both pipelines and the raw network, and check that the weights are the same.

    Yields ``host:port``.
    """
    raw_too = ["--", f"--load-model={RAW_NETWORK}"]
    with serve_without_health_checks(repository, PIPELINES, variant, options=raw_too) as server:
        with Client(server.url) as client:
            check_weights(client, checkpoints.by_step())
        yield server.url


def check_answers(
    contenders: Sequence[Contender],
    askers: Mapping[str, Sequence[Caller]],
    case: Case,
    frame: PeerFrame,
) -> dict[str, Agreement]:
    """Compare every contender's cells of a frame with the server's."""
    ours = askers[SERVED.name][0].whole(case[0], frame)
    agreements = {}
    for contender in contenders:
        agreement = compare(ours, askers[contender.name][0].whole(case[0], frame))
        hold(contender.name, describe(case), len(ours), agreement, contender.unmatched_share)
        agreements[contender.name] = agreement
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
    """Return median seconds per frame of one client, and frames per second of all, by contender."""

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
) -> list[PeerRow]:
    """Return a row per contender: its figures, and their ratios to the server's."""
    pipeline, (width, height, cells) = case
    ours, study = times[SERVED.name], times.get(STUDY.name)
    return [
        PeerRow(
            pipeline=pipeline,
            width=width,
            height=height,
            cells=cells,
            way=contender,
            **vars(agreements[contender]),
            seconds=figures["seconds"],
            frames_per_second=figures["frames_per_second"],
            seconds_ratio=figures["seconds"] / ours["seconds"],
            throughput_ratio=ours["frames_per_second"] / figures["frames_per_second"],
            times_the_study=study["seconds"] / figures["seconds"] if study else None,
        )
        for contender, figures in times.items()
    ]


def describe(case: Case) -> str:
    """Return a case in words."""
    pipeline, (width, height, cells) = case
    return f"{pipeline} on {width} x {height} px with {cells} cells"


def describe_contender(contender: Contender) -> WayRow:
    """Return a contender and the version of its package."""
    version = ""
    if contender.package is not None:
        version = installed_version(environment_of(contender.name), contender.package)
    return WayRow(way=contender.name, title=contender.title, version=version)


@click.command(help=__doc__, context_settings={"show_default": True})
@checkpoint_option("--cells", "the one-class network (`yolo_cells`)")
@checkpoint_option("--targets", "the fine-tuned network (`yolo_targets`)")
@checkpoint_option("--classifier", "the classifier (`resnet50_cells`)")
@json_option
@markdown_option
@repository_option
@click.option(
    "--peer",
    "names",
    type=click.Choice([each.name for each in CONTENDERS if each is not SERVED]),
    multiple=True,
    default=[each.name for each in CONTENDERS if each is not SERVED],
    help="Compare with it; may be repeated.",
)
@variants_option
@click.option("--repeats", type=click.IntRange(1), default=24, help="Timed frames of one client.")
@click.option("--bursts", type=click.IntRange(1), default=2, help="Timed bursts of all clients.")
@click.option("--requests", type=click.IntRange(1), default=2, help="Frames per client and burst.")
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
    """Measure all contenders; the module's docstring is the help."""
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
    write_result(result, peers_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
