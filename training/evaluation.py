"""Evaluation of found cells: matched with annotated ones, and the score threshold chosen by that.

A score of 0.25 means something different for every network. So each training runs its network on
the validation frames at a low threshold, through the same modules that are served, and takes the
threshold with the highest F1.

torch is imported only when frames are examined, since tables of benchmarks use the figures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from rich.progress import track

from cytoserve.cells import Cells
from training.checkpoint import ChosenThreshold, LearnedScale
from training.datasets.annotated import AnnotatedCell, AnnotatedDataset
from training.datasets.blank_frames import blank_frame

if TYPE_CHECKING:
    from torch import Tensor


MATCH_IOU = 0.5
"""Least mask IoU of a found cell and the annotated cell that it is matched with."""


@dataclass(frozen=True)
class Match:
    """A found cell and the annotated cell that it is matched with."""

    iou: float
    true_class: int
    found_class: int
    found_index: int
    """Index of the found cell in the answer."""
    annotated_index: int
    """Index of the annotated cell in its frame."""


@dataclass(frozen=True)
class FrameMatches:
    """One frame's matches and counts."""

    matches: tuple[Match, ...]
    found: int
    annotated: int


@dataclass(frozen=True)
class Quality:
    """Figures over all frames; NaN if there is nothing to measure."""

    iou: float
    """Mean mask IoU of the matched cells."""
    accuracy: float
    """Share of matched cells with the correct class."""
    balanced_accuracy: float
    """Mean over the classes of the share of matched cells with the correct class."""
    recall: float
    """Share of annotated cells that are matched."""
    precision: float
    """Share of found cells that are matched."""
    f1: float
    """Harmonic mean of recall and precision: TP / (TP + FP / 2 + FN / 2)."""
    panoptic_quality: float
    """Sum of the IoU of all matches / (TP + FP / 2 + FN / 2), regardless of class.

    Segmentation quality (the mean IoU of matched cells) times recognition quality (F1), as in
    Kirillov et al. 2019, "Panoptic Segmentation". There an IoU of exactly 0.5 is not a match.
    """


def match_cells(found: Cells, annotated: Sequence[AnnotatedCell]) -> FrameMatches:
    """Match greedily: the highest-scored cell takes the annotated one that it overlaps most.

    Every annotated cell is taken at most once, as in COCO's evaluation.
    """
    boxes = np.array([cell.box for cell in annotated], float).reshape(-1, 4)
    free = np.ones(len(annotated), bool)
    matches = []
    for place, (region, class_id) in enumerate(
        zip(found.regions(), found.class_ids.tolist(), strict=True)
    ):
        if not region.mask.any():
            continue
        cell = AnnotatedCell.cut(region.mask, class_id, x=region.columns.start, y=region.rows.start)
        # Compare only cells whose boxes overlap: frames may have thousands of both.
        meeting = (boxes[:, :2] < cell.box[2:]) & (boxes[:, 2:] > cell.box[:2])
        near = np.flatnonzero(meeting.all(axis=1) & free)
        if not near.size:
            continue
        overlaps = [mask_iou(cell, annotated[index]) for index in near]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= MATCH_IOU:
            taken = int(near[best])
            free[taken] = False
            true_class = annotated[taken].class_id
            matches.append(Match(overlaps[best], true_class, class_id, place, taken))
    return FrameMatches(tuple(matches), len(found), len(annotated))


def mask_iou(one: AnnotatedCell, other: AnnotatedCell) -> float:
    """Intersection over union of two masks, computed from their patches alone."""
    x0, y0 = max(one.x, other.x), max(one.y, other.y)
    x1 = min(one.x + one.mask.shape[1], other.x + other.mask.shape[1])
    y1 = min(one.y + one.mask.shape[0], other.y + other.mask.shape[0])
    if x1 <= x0 or y1 <= y0:
        return 0.0
    shared = int(np.count_nonzero(_window(one, x0, y0, x1, y1) & _window(other, x0, y0, x1, y1)))
    return shared / (one.area + other.area - shared)


def _window(cell: AnnotatedCell, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.bool_]:
    return cell.mask[y0 - cell.y : y1 - cell.y, x0 - cell.x : x1 - cell.x]


def quality(frames: Sequence[FrameMatches]) -> Quality:
    """Compute the figures over the cells of all frames together."""
    matches = [match for frame in frames for match in frame.matches]
    found, annotated = sum(f.found for f in frames), sum(f.annotated for f in frames)
    right = np.array([match.true_class == match.found_class for match in matches], float)
    classes = np.array([match.true_class for match in matches], int)
    per_class = [right[classes == class_id].mean() for class_id in np.unique(classes)]
    # TP + FP / 2 + FN / 2, since TP + FP = found and TP + FN = annotated.
    cells = (found + annotated) / 2
    overlap = sum(match.iou for match in matches if match.iou > MATCH_IOU)
    return Quality(
        iou=_mean([match.iou for match in matches]),
        accuracy=_mean(right.tolist()),
        balanced_accuracy=_mean(per_class),
        recall=len(matches) / annotated if annotated else float("nan"),
        precision=len(matches) / found if found else float("nan"),
        f1=len(matches) / cells if cells else float("nan"),
        panoptic_quality=overlap / cells if cells else float("nan"),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


LOWEST = 0.02
"""Score threshold at which a network is run to obtain all its cells."""

THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 50))
"""Thresholds of the curve: 0.02 to 0.98."""

TOLERANCE = 0.005
"""Thresholds whose F1 is this close to the highest count as equally good."""

MAX_TOLERANCE = 0.02
"""A threshold that misses one more cell also counts as equally good if its F1 is this close to the
highest: one of a few dozen cells may be missed by chance."""

BLANKS = 24
"""Minimum number of empty frames that are examined: two or three would cover few kinds."""

PICTURE = "threshold.png"

ScoredFrame = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]
"""Result for one frame: the scores ``[N]`` of its found cells, whether each is matched with an
annotated cell ``[N]``, and the number of annotated cells."""


def validation_frames(
    validation: AnnotatedDataset,
    find: Callable[[Tensor, float], Cells],
    scale: LearnedScale,
    blank_side: int,
    seed: int,
) -> Iterator[ScoredFrame]:
    """Yield results for the validation frames, then for as many empty ones, at least `BLANKS`.

    Args:
        validation: frames that were not trained on.
        find: function that finds the cells of a frame int32 ``[H, W, C]``, down to a low score. Its
            second argument is the frame's factor to the common scale of the data.
        scale: the scale that the network was trained at.
        blank_side: side of the empty frames, in network pixels. Every cell found in them is wrong.
        seed: random seed of the empty frames.
    """
    import torch

    channels = []
    for frame in track(validation.frames, "choosing the threshold", transient=True):
        image = frame.read()
        image = image[:, :, None] if image.ndim == 2 else image
        channels.append(image.shape[2])
        cells = find(torch.from_numpy(image.astype(np.int32)), frame.scale)
        matched = np.zeros(len(cells), bool)
        matched[[match.found_index for match in match_cells(cells, frame.cells).matches]] = True
        yield cells.scores, matched, len(frame.cells)
    random = np.random.default_rng(seed)
    for index in range(max(BLANKS, len(channels))):
        blank = blank_frame(random, blank_side, blank_side, channels[index % len(channels)])
        cells = find(torch.from_numpy(blank.astype(np.int32)), 1 / scale.network_scale)
        yield cells.scores, np.zeros(len(cells), bool), 0


def choose_score_threshold(frames: Iterable[ScoredFrame]) -> ChosenThreshold:
    """Choose the threshold with the highest F1 over all frames together.

    Cells are matched greedily, the highest-scored first, so a higher threshold removes cells and
    changes no other match. With few validation cells, several thresholds are often equally good,
    see `TOLERANCE`. Then the middle one is taken, which is the furthest from both kinds of mistake.

    Raises:
        ValueError: there is no annotated cell, so no threshold can be chosen.
    """
    frames = list(frames)
    annotated = sum(count for _, _, count in frames)
    if not annotated:
        raise ValueError(
            "a score threshold is chosen by annotated cells; the validation frames have none. "
            "Annotate some, or draw other frames with another --seed."
        )
    scores = np.concatenate([scores for scores, _, _ in frames])
    right = np.concatenate([matched for _, matched, _ in frames])
    above = scores[None] > np.array(THRESHOLDS, np.float32)[:, None]
    found, matched = above.sum(axis=1), (above & right[None]).sum(axis=1)
    return choose_threshold("F1", matched, found, annotated)


def choose_threshold(
    metric: Literal["F1", "Dice"],
    matched: npt.NDArray[np.integer[Any]],
    found: npt.NDArray[np.integer[Any]],
    annotated: int,
) -> ChosenThreshold:
    """Choose the threshold with the highest ``2 matched / (found + annotated)``.

    This is the F1 score if cells are counted, and the Dice score if pixels are. If several
    thresholds are equally good, the middle one is taken.

    Args:
        metric: name of the score.
        matched: ``[T]``, number both found and annotated, per threshold of ``THRESHOLDS``.
        found: ``[T]``, number found, per threshold of ``THRESHOLDS``.
        annotated: number annotated, 1 or more.
    """
    figures = 2 * matched / (found + annotated)
    best = int(figures.argmax())
    one_less = 2 * (matched[best] - 1) / (found[best] - 1 + annotated)
    drop = min(max(TOLERANCE, figures[best] - one_less), MAX_TOLERANCE)
    return ChosenThreshold(
        value=_middle_of_the_best(figures, figures[best] - drop),
        metric=metric,
        thresholds=THRESHOLDS,
        precision=_rounded(np.where(found > 0, matched / np.maximum(found, 1), 1.0)),
        recall=_rounded(matched / annotated),
        best=_rounded(figures),
    )


def _middle_of_the_best(figures: npt.NDArray[np.float64], least: float) -> float:
    """Middle of the range of thresholds around the best one that reach ``least``."""
    first = last = int(figures.argmax())
    while first > 0 and figures[first - 1] >= least - 1e-9:
        first -= 1
    while last < len(figures) - 1 and figures[last + 1] >= least - 1e-9:
        last += 1
    return THRESHOLDS[(first + last) // 2]


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def draw_threshold(chosen: ChosenThreshold, folder: Path) -> Path:
    """Plot precision, recall and F1 (or Dice) against the threshold, and return the file."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("precision", "recall", "best"):
        label = chosen.metric if name == "best" else name
        axes.plot(chosen.thresholds, getattr(chosen, name), label=label)
    axes.axvline(chosen.value, color="grey", linestyle="--", label=f"chosen: {chosen.value:g}")
    axes.set(xlabel="threshold", ylabel="on the validation frames", ylim=(0, 1.02))
    axes.legend()
    file = folder / PICTURE
    figure.savefig(file, dpi=120)
    return file
