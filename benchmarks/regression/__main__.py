"""Checks in three minutes whether serving has become slow: ratios of one run against wide bounds.

\b
    python -m benchmarks.regression --model-repository model_repository

\b
overhead   every exported pipeline through the server / its graphs in this process
speedup    PyTorch, which classifies the same cells one by one / yolo_resnet through the server
batch      frames per execution of yolo's network while 8 clients ask
growth     seconds with many cells / with few, as a multiple of the counts' ratio
memory     bytes that one more cell adds to the server's peak / pixels of the frame

This prints the figures beside their bounds, and exits with code 1 if a bound is broken. The bounds
are so wide that a busy machine keeps them. They detect a frame-sized mask per cell, a batch that is
never formed, or an adapter that copies in a loop, but not a few percent. The score threshold
decides how many cells a frame has, so any weights will do, even random ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt

from benchmarks.harness.bounds import judge
from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import ask, each_time_new, exported, load_frame
from benchmarks.harness.memory import PeakMemory
from benchmarks.harness.options import json_option, markdown_option, repository_option
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.serving import paused_supervisor
from benchmarks.harness.step_statistics import counted
from benchmarks.harness.timing import WARM_UPS, time_interleaved
from benchmarks.regression.result import (
    BOUNDS,
    Check,
    Load,
    RegressionResult,
    regression_page,
)
from cytoserve import Cells, Client
from cytoserve.codec.instances import encode_request
from cytoserve.contract import (
    NETWORK_SIZE,
    OVERLAP_THRESHOLD,
    PIPELINES,
    SCORE_THRESHOLD,
    SCORES,
    STEPS,
)
from cytoserve.operating_point import operating_point
from cytoserve.settings import Settings
from export.parity.chain import Chain
from export.parity.reference import normalised_rgb
from export.resnet.reference import classify_one_by_one
from export.yolo.reference import UltralyticsYolo
from server.embedded import EmbeddedServer
from server.errors import ServerError
from training.resnet.network import CellClassifier
from training.yolo.network import new_network

Image = npt.NDArray[Any]

CLASSIFIED = "yolo_resnet"
"""Pipeline whose work grows with the cells."""

BATCHED = "yolo"
"""Pipeline whose network shall run on the frames of several clients at once."""


def measure(
    server: EmbeddedServer, repository: Path, pipelines: Sequence[str], load: Load
) -> list[Check]:
    """Measure all ratios of a server that serves ``pipelines`` of ``repository``.

    Raises:
        click.ClickException: `yolo_resnet` cannot find that many cells.
    """
    checks = []
    with Client(server.url, timeout=300) as client, paused_supervisor(server):
        if CLASSIFIED in pipelines:
            image = load_frame(load.side, load.side, load.few).image
            few, many = best_cells(client, repository, image, (load.few, load.many))
            checks += [
                # Memory goes first: what the server retains of many cells would hide their cost.
                Check("memory", CLASSIFIED, memory(few, many, server.pid) / image.size),
                Check("growth", CLASSIFIED, growth(few, many, load.repeats)),
                speedup(client, repository, load),
            ]
        checks += [overhead(client, repository, name, load) for name in pipelines]
        if BATCHED in pipelines:
            checks.append(batch(server.url, load))
    return sorted(checks, key=lambda check: check.check)


def best_cells(
    client: Client, repository: Path, image: Image, counts: Sequence[int]
) -> list[Callable[[], Cells]]:
    """Return a request to `yolo_resnet` per count, for the best cells of ``image``.

    The cells may overlap. The score threshold limits them, not the cap, so that no step sees more
    cells than the answer has. The frame is one tile, which has enough candidates.

    Raises:
        click.ClickException: the pipeline finds fewer cells.
    """
    pipeline = PIPELINES[CLASSIFIED]
    settings = Settings(score_threshold=0, overlap_threshold=1, scale="fit")
    point = operating_point(settings, client.card(CLASSIFIED), image.shape, pipeline)
    inputs = encode_request(image, pipeline, point).inputs
    scores = Chain(repository, CLASSIFIED).run(inputs, [SCORES.name])[SCORES.name]
    if len(scores) <= max(counts):
        raise click.ClickException(
            f"{max(counts)} cells are asked for, but {CLASSIFIED} finds only {len(scores)}, "
            "however low they score. Ask for fewer, or export networks that do not reject all."
        )
    return [
        partial(
            client.segment,
            image,
            CLASSIFIED,
            score_threshold=float(scores[count]),
            overlap_threshold=1,
            scale="fit",
        )
        for count in counts
    ]


def overhead(client: Client, repository: Path, pipeline: str, load: Load) -> Check:
    """Measure seconds through the server / of the same client and graphs in this process."""
    frame = load_frame(*load.frame, load.cells)

    def asking(client: Client) -> Callable[[], object]:
        # Each frame is new, so that no answer comes from the server's response cache.
        return each_time_new(
            lambda image: ask(client, pipeline, replace(frame, image=image)),
            frame.image,
            load.repeats + WARM_UPS,
        )

    with Client(transport=InProcess(repository, [pipeline])) as limit:
        seconds = time_interleaved({"served": asking(client), "limit": asking(limit)}, load.repeats)
    return Check("overhead", pipeline, _ratio(seconds, "served", "limit"))


def speedup(client: Client, repository: Path, load: Load) -> Check:
    """Measure seconds of PyTorch, cell by cell / of the server, for the same cells.

    The frame is as large as the network's field, because PyTorch, as in the study, shrinks larger
    ones to it. PyTorch's networks have random weights, on which their time does not depend. Its
    detector therefore finds nothing, and does not even decode masks, which the server does.
    """
    image = load_frame(NETWORK_SIZE, NETWORK_SIZE, load.cells).image
    [served] = best_cells(client, repository, image, [load.cells])
    boxes = [box.reshape(2, 2) for box in served().boxes]
    rgb = normalised_rgb(image)
    detector = UltralyticsYolo(new_network(1).eval(), masks_on_frame=False)
    classifier = CellClassifier(2).eval()

    def one_by_one() -> None:
        detector.predict(rgb, SCORE_THRESHOLD, OVERLAP_THRESHOLD)
        classify_one_by_one(classifier, rgb, boxes)

    seconds = time_interleaved({"served": served, "one by one": one_by_one}, load.repeats)
    return Check("speedup", CLASSIFIED, _ratio(seconds, "one by one", "served"))


def growth(few: Callable[[], Cells], many: Callable[[], Cells], repeats: int) -> float:
    """Measure the ratio of seconds with many and few cells / the ratio of the counts."""
    cells = len(many()) / len(few())
    seconds = time_interleaved({"few": few, "many": many}, max(1, repeats // 2))
    return _ratio(seconds, "many", "few") / cells


def memory(few: Callable[[], Cells], many: Callable[[], Cells], pid: int) -> float:
    """Measure the bytes that one more cell adds to the peak of the server with launcher ``pid``."""
    few()  # the first answer has costs that are not its cells'
    peaks, cells = [], []
    for request in (few, many):
        with PeakMemory(pid) as sampled:
            cells.append(len(request()))
        peaks.append(sampled.peak)
    return (peaks[1] - peaks[0]) / (cells[1] - cells[0])


def batch(url: str, load: Load) -> Check:
    """Measure the mean frames per execution of a network while several clients ask at once."""
    [network] = [name for name in PIPELINES[BATCHED].steps if STEPS[name].batches]
    frame = load_frame(*load.frame, load.cells)

    def keep_asking(_: int) -> None:
        with Client(url, timeout=300) as client:
            for _ in range(load.requests):
                ask(client, BATCHED, frame)

    def ask_at_a_time() -> None:
        with ThreadPoolExecutor(load.clients) as pool:
            list(pool.map(keep_asking, range(load.clients)))

    counts = counted(url, BATCHED, ask_at_a_time, load.clients * load.requests)[network]
    return Check("batch", network, counts.answers / counts.executions)


def refuse_broken_bounds(result: RegressionResult) -> None:
    """Raise an error if bounds are broken.

    A bound that was not measured, because its pipeline is not exported, is not broken.

    Raises:
        click.ClickException: a bound is broken; the text names all broken ones.
    """
    verdicts = judge(BOUNDS, result)
    broken = [
        f"{verdict.bound.name} of {verdict.of}: {verdict.measured_text}, not "
        f"{verdict.bound.limit_text}"
        for verdict in verdicts
        if verdict.reached is False
    ]
    if broken:
        raise click.ClickException("\n".join(["Bounds are broken.", *broken]))


def _ratio(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    return statistics.median(seconds[one]) / statistics.median(seconds[other])


@click.command(help=__doc__, context_settings={"show_default": True})
@repository_option
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    type=click.Choice(list(PIPELINES)),
    help="Only this one; give it several times. Default: all that are exported.",
)
@click.option("--repeats", type=click.IntRange(1), default=Load.repeats, help="Timed rounds.")
@click.option("--few", type=click.IntRange(1), default=Load.few, help="Cells growth begins at.")
@click.option("--many", type=click.IntRange(1), default=Load.many, help="Cells it ends at.")
@click.option("--requests", type=click.IntRange(1), default=Load.requests, help="Of each client.")
@json_option
@markdown_option
def main(
    model_repository: Path,
    pipelines: Sequence[str],
    repeats: int,
    few: int,
    many: int,
    requests: int,
    json_file: Path,
    markdown: Path | None,
) -> None:
    """Measure and judge; the module's docstring is the help."""
    if few >= many:
        raise click.UsageError(f"--many is more than --few; given: {many} and {few}.")
    load = Load(repeats=repeats, few=few, many=many, requests=requests)
    served = exported(model_repository, pipelines)
    try:
        with EmbeddedServer(model_repository, served) as server:
            checks = measure(server, model_repository, served, load)
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    result = RegressionResult(**made_by("regression"), checks=tuple(checks), load=load)
    write_result(result, regression_page(result), json_file, markdown)
    refuse_broken_bounds(result)


if __name__ == "__main__":
    main()
