"""Fills the table of study S4 from any annotated data set: both pipelines through the server.

\b
    python -m benchmarks.instances --data data/t98g@benchmarks/t98g/test.txt \\
        --maskrcnn runs/t98g-instances/maskrcnn --sam runs/t98g-instances/sam \\
        --json instances.json

mAP is that of the server's answers, over IoU 0.50:0.05:0.95 with 11-point interpolation, all frames
together. Seconds are end to end. One run interleaves the server, the same weights as the study ran
them (torchvision, then `SamPredictor` box by box), and the same ONNX graphs without a server, each
time on a frame that the server has not seen. The seconds of the steps of `maskrcnn_sam` are from
the server's statistics. SAM is also prompted with the boxes of the annotated cells, through
`sam_prompt`, which gives its own mask IoU and the cost of a prompt.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import each_time_new, new_frames
from benchmarks.harness.options import (
    checkpoint_option,
    json_option,
    markdown_option,
    repository_option,
    score_threshold_option,
    score_thresholds,
)
from benchmarks.harness.results import fingerprint, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import paused_supervisor
from benchmarks.harness.step_statistics import RequestSeconds, request_seconds
from benchmarks.harness.timing import WARM_UPS, time_interleaved
from benchmarks.instances.box_prompts import (
    boxes_of,
    measure_prompt_cost,
    prompted_ious,
    prompted_quality,
)
from benchmarks.instances.memory import measure_memory
from benchmarks.instances.pictures import annotated_cells, save_columns
from benchmarks.instances.quality import instance_quality
from benchmarks.instances.tables import NAMES, instances_page
from benchmarks.instances.ways import Thresholds, Way, study, through
from cytoserve import Cells, Client, Prompts
from cytoserve.contract import OVERLAP_THRESHOLD
from export.parity.chain import Chain
from export.parity.reference import normalised_rgb
from server.embedded import EmbeddedServer
from server.installation import available_cores
from training.checkpoint import CheckpointError
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.maskrcnn.network import load_maskrcnn
from training.run.command_line import data_option, read_data
from training.sam.network import load_sam

PROMPTED = "sam_prompt"
PIPELINES = (*NAMES, PROMPTED)
TIMEOUT = 600.0
"""Maximum seconds per request: a large frame is slow on a slow processor."""

AFTER_BOTH = ("sam_decoder", "sam_cells")
"""Steps of `maskrcnn_sam` that wait for Mask R-CNN and for SAM's encoder."""


@dataclass(frozen=True)
class Checkpoints:
    """Folders of the weights that the repository serves."""

    maskrcnn: Path
    sam: Path

    def by_step(self) -> dict[tuple[str, str], Path]:
        """Return the folder of every measured pipeline and network step."""
        return {
            ("maskrcnn", "maskrcnn_network"): self.maskrcnn,
            ("maskrcnn_sam", "maskrcnn_network"): self.maskrcnn,
            ("maskrcnn_sam", "sam_encoder"): self.sam,
            (PROMPTED, "sam_encoder"): self.sam,
        }


@dataclass(frozen=True)
class Answers:
    """What the server found in one frame."""

    frame: AnnotatedFrame
    found: Mapping[str, Cells]
    """Pipeline -> its cells. Those of `PROMPTED` are in the order of the annotated cells; without
    annotated cells they are absent."""


def measure(
    dataset: AnnotatedDataset,
    server: EmbeddedServer,
    checkpoints: Checkpoints,
    thresholds: Thresholds,
    *,
    repeats: int,
    timed_frames: int,
    figures: Path | None,
) -> dict[str, Any]:
    """Return the figures of the module's docstring; draw every frame into ``figures``.

    Raises:
        CheckpointError: the server answers with other weights than those of the checkpoints.
    """
    maskrcnn, _ = load_maskrcnn(checkpoints.maskrcnn)
    sam, sam_recipe = load_sam(checkpoints.sam)
    densest = max(dataset.frames, key=lambda frame: len(frame.cells))
    timed = dataset.frames[:timed_frames]
    with Client(server.url, timeout=TIMEOUT) as client:
        check_weights(client, checkpoints.by_step())
        memory = measure_memory(client, densest.read())
        ours = through(client, thresholds)
        answers = [
            ask_all(client, ours, frame)
            for frame in track(dataset.frames, "segmenting", transient=True)
        ]
        if figures:
            for answer in answers:
                draw(answer, dataset.class_names, figures)
        in_process = InProcess(server.repository, tuple(NAMES))
        with paused_supervisor(server), Client(transport=in_process) as alone:
            seconds = measure_seconds(
                ours,
                through(alone, thresholds),
                study(maskrcnn, sam, thresholds),
                timed,
                repeats,
            )
            steps = [
                request_seconds(server.url, "maskrcnn_sam", partial(ours["maskrcnn_sam"], image))
                for frame in timed
                for image in new_frames(frame.read(), repeats)
            ]
            cost = measure_prompt_cost(
                client,
                Chain(server.repository, PROMPTED, threads=available_cores()),
                densest.read(),
                boxes_of(densest.cells),
                repeats,
            )
    return {
        **quality_figures(answers, len(dataset.class_names)),
        **speed_figures(seconds),
        "steps": step_figures(steps),
        "prompt_cost": cost.figures(),
        "memory": [asdict(figure) for figure in memory],
        "timed_frames": [frame.name for frame in timed],
        "prompted_frame": densest.name,
        "repeats": repeats,
        "score_threshold": thresholds.score,
        "overlap_threshold": thresholds.overlap,
        "class_names": list(dataset.class_names),
        "sam_size": sam_recipe.settings["size"],
        "machine": fingerprint(),
    }


def ask_all(
    client: Client, ours: Mapping[str, Callable[[Any], Cells]], frame: AnnotatedFrame
) -> Answers:
    """Send a frame to both pipelines, and with the boxes of its annotated cells to `PROMPTED`."""
    image = frame.read()
    found = {name: segment(image) for name, segment in ours.items()}
    if frame.cells:
        found[PROMPTED] = client.prompt(image, Prompts(boxes=boxes_of(frame.cells)), PROMPTED)
    return Answers(frame, found)


def quality_figures(answers: Sequence[Answers], classes: int) -> dict[str, Any]:
    """Return the quality of the found cells, by pipeline, for true boxes, and by frame."""
    return {
        "pipelines": {
            name: asdict(
                instance_quality([(a.found[name], a.frame.cells) for a in answers], classes)
            )
            for name in NAMES
        },
        "box_prompts": asdict(
            prompted_quality([(a.found[PROMPTED], a.frame.cells) for a in answers if a.frame.cells])
        ),
        "frames": [describe(answer) for answer in answers],
    }


def draw(answers: Answers, class_names: tuple[str, ...], folder: Path) -> None:
    """Save a frame's figure: image, truth, Mask R-CNN, SAM, and SAM prompted with true boxes."""
    titles = {**NAMES, PROMPTED: "SAM, true boxes"}
    columns = {
        "Truth": annotated_cells(answers.frame, class_names),
        **{titles[name]: cells for name, cells in answers.found.items()},
    }
    save_columns(folder, answers.frame.name, answers.frame.read(), columns)


def measure_seconds(
    ours: Mapping[str, Callable[[Any], Cells]],
    graphs: Mapping[str, Way],
    torch: Mapping[str, Way],
    frames: Sequence[AnnotatedFrame],
    repeats: int,
) -> dict[str, dict[str, float]]:
    """Return median seconds by contender and pipeline, interleaved: load hits them all alike."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for frame in track(frames, "timing", transient=True):
        image = frame.read()
        rgb = normalised_rgb(image)
        calls: dict[tuple[str, str], Callable[[], object]] = {}
        for name in NAMES:
            calls["served", name] = each_time_new(ours[name], image, repeats + WARM_UPS)
            calls["in_process", name] = partial(graphs[name], image)
            calls["study_way", name] = partial(torch[name], rgb)
        for key, times in time_interleaved(calls, repeats).items():
            seconds[key].append(statistics.median(times))
    median = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        contender: {name: median[contender, name] for name in NAMES}
        for contender in ("served", "in_process", "study_way")
    }


def speed_figures(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return seconds of `measure_seconds` and their ratios, by pipeline."""
    ours = seconds["served"]
    return {
        "seconds": seconds,
        "speedup": {name: seconds["study_way"][name] / ours[name] for name in NAMES},
        "overhead": {name: ours[name] / seconds["in_process"][name] for name in NAMES},
    }


def step_figures(requests: Sequence[RequestSeconds]) -> dict[str, Any]:
    """Return medians over requests to `maskrcnn_sam`: its steps, and the two networks' overlap.

    A request would take ``sum`` seconds if the steps ran one after the other. It would take
    ``longest_and_decoder`` seconds if only the longer network and the decoder took time. Networks
    that run together share the cores, so each takes longer than it would alone.
    """
    both = ("maskrcnn_network", "sam_encoder")
    steps = {
        name: statistics.median(request.steps[name] for request in requests)
        for name in requests[0].steps
    }
    return {
        "total": statistics.median(request.total for request in requests),
        "steps": steps,
        "together": statistics.median(request.together(*both, AFTER_BOTH) for request in requests),
        "sum": sum(steps.values()),
        "longest_and_decoder": max(steps[name] for name in both) + steps["sam_decoder"],
    }


def describe(answers: Answers) -> dict[str, Any]:
    """Return one frame of the result."""
    frame = answers.frame
    ious = prompted_ious(answers.found[PROMPTED], frame.cells) if frame.cells else []
    return {
        "name": frame.name,
        "height": frame.height,
        "width": frame.width,
        "cells": len(frame.cells),
        "found": {name: len(answers.found[name]) for name in NAMES},
        "prompted_iou": statistics.fmean(ious) if ious else None,
    }


def read_test_set(data: Sequence[str], class_names: tuple[str, ...]) -> AnnotatedDataset:
    """Read ``--data`` with the classes that the network separates; one class takes all cells.

    Raises:
        click.UsageError: it cannot be read, has other classes, or has no annotated cell.
    """
    dataset, _ = read_data(data, one_class=len(class_names) == 1)
    if len(class_names) > 1 and dataset.class_names != class_names:
        raise click.UsageError(
            f"--data must have the classes of the network, {', '.join(class_names)}; it has "
            f"{', '.join(dataset.class_names)}."
        )
    if not any(frame.cells for frame in dataset.frames):
        raise click.UsageError(
            f"--data {' '.join(data)} must hold an annotated cell, or there is nothing to compare "
            "with; name another data set."
        )
    return dataset


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@checkpoint_option("--maskrcnn", "Mask R-CNN (`maskrcnn_network`)")
@checkpoint_option("--sam", "SAM (`sam_encoder`, `sam_decoder`)")
@json_option
@markdown_option
@click.option("--figures", type=click.Path(path_type=Path), help="Folder for pictures.")
@repository_option
@click.option("--repeats", type=click.IntRange(1), default=3, help="Timed rounds per frame.")
@click.option("--timed-frames", type=click.IntRange(1), default=2, help="Frames that are timed.")
@score_threshold_option
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), default=OVERLAP_THRESHOLD)
def main(
    data: tuple[str, ...],
    maskrcnn: Path,
    sam: Path,
    json_file: Path,
    markdown: Path | None,
    figures: Path | None,
    model_repository: Path,
    repeats: int,
    timed_frames: int,
    score_threshold: float | None,
    overlap_threshold: float,
) -> None:
    """Measure both pipelines; the module's docstring is the help."""
    try:
        dataset = read_test_set(data, load_maskrcnn(maskrcnn)[1].class_names)
        with ExitStack() as stack:
            server = stack.enter_context(EmbeddedServer(model_repository, PIPELINES))
            with Client(server.url) as client:
                scores = score_thresholds(client, NAMES, score_threshold)
            result = measure(
                dataset,
                server,
                Checkpoints(maskrcnn, sam),
                Thresholds(scores, overlap_threshold),
                repeats=repeats,
                timed_frames=timed_frames,
                figures=figures,
            )
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    write_result(result, instances_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
