"""Reads the annotated frames that prove a variant, and computes figures of a server's answers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from cytoserve import Client
from cytoserve.contract import PIPELINES
from export.unet.steps import RADIUS
from training.datasets.annotated import AnnotatedCell
from training.datasets.readers.brecahad import disc_mask, read_brecahad
from training.evaluation import match_cells, quality
from training.rendered import RenderSettings, render_frame
from training.run.command_line import read_data
from training.unet.dice import dice_score
from training.unet.frames import foreground_mask

POINTS = "nuclei_unet"
"""Pipeline whose annotation is the centres of nuclei."""

RENDERED = RenderSettings(height=2048, width=2048, cells=300)
RENDERED_SEEDS = (9001, 9002)
"""Seeds of the rendered frames, far from the seeds of training."""

Image = npt.NDArray[Any]
Truth = Sequence[AnnotatedCell] | npt.NDArray[np.bool_] | None
"""Annotated cells, the mask for a semantic pipeline, or None for the default's own mask."""


@dataclass(frozen=True)
class Proof:
    """Frames that a pipeline's variants are proven on."""

    source: str
    frames: tuple[tuple[Image, Truth], ...]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the instance pipelines."""

    score: float | None
    """Score threshold; None takes that of the card."""
    overlap: float


def figures_of(
    client: Client, pipeline: str, proof: Proof, default: Client, thresholds: Thresholds
) -> dict[str, float]:
    """Return a semantic pipeline's mean Dice, or IoU, accuracy, recall and precision of another."""
    if PIPELINES[pipeline].is_semantic:
        scores = []
        for image, truth in proof.frames:
            expected = default.foreground(image, pipeline).mask if truth is None else truth
            mask = client.foreground(image, pipeline).mask
            scores.append(dice_score(mask, np.asarray(expected, bool)))
        return {"dice": statistics.mean(scores)}
    matches = []
    for image, truth in proof.frames:
        cells = client.segment(
            image,
            pipeline,
            score_threshold=thresholds.score,
            overlap_threshold=thresholds.overlap,
        )
        matches.append(match_cells(cells, list(truth or ())))
    found = asdict(quality(matches))
    return {name: found[name] for name in ("iou", "accuracy", "recall", "precision")}


def read_proof(pipeline: str, data: Sequence[str], client: Client) -> Proof:
    """Read the annotated frames of a pipeline, or render frames if no data is given.

    Args:
        pipeline: pipeline that decides the kind of annotation: cells, a mask, or centres.
        data: ``DIR`` or ``DIR@FILE``; for centres ``DIR`` or ``DIR@CASE``.
        client: client of a server whose card has the radius of a nucleus.
    """
    semantic = PIPELINES[pipeline].is_semantic
    if not data:
        frames = [render_frame(RENDERED, seed) for seed in RENDERED_SEEDS]
        return Proof("rendered", tuple((i, None if semantic else cells) for i, cells in frames))
    if pipeline == POINTS:
        return Proof(", ".join(data), tuple(point_frames(data, client)))
    dataset, _ = read_data(data, one_class=False)
    return Proof(
        ", ".join(data),
        tuple((f.read(), foreground_mask(f) if semantic else f.cells) for f in dataset.frames),
    )


def point_frames(data: Sequence[str], client: Client) -> Iterable[tuple[Image, Truth]]:
    """Yield frames with annotated centres, and discs around them of the training's radius."""
    recipe = client.card(POINTS).recipes["nuclei_network"]
    radius = float(recipe["settings"][RADIUS])
    for argument in data:
        directory, _, case = argument.partition("@")
        try:
            frames = [f for f in read_brecahad(Path(directory)) if case in ("", f.case)]
        except (ValueError, OSError) as error:
            raise click.UsageError(f"--data {argument}: {error}") from error
        if not frames:
            raise click.UsageError(f"--data {argument}: no frame is of case {case}.")
        for frame in frames:
            yield frame.read(), disc_mask(frame.nuclei(), (frame.height, frame.width), radius)
