"""The result of `benchmarks.instances`: its figures, and its page with study S4's beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness.options import score_threshold_text
from benchmarks.harness.results import ABSENT, Result, machine_note, markdown_table
from benchmarks.harness.timing import Speed, speed_table
from benchmarks.published import S4

NAMES = {"maskrcnn": "Mask R-CNN", "maskrcnn_sam": "SAM"}
"""Pipeline -> the study's name for its network."""


@dataclass(frozen=True, kw_only=True)
class InstanceQuality:
    """Figures of one pipeline, the study's first; NaN if there is nothing to measure.

    Those that a result of an earlier version lacks are None.
    """

    annotated: float
    """Mean annotated cells per frame."""
    found: float
    """Mean found cells per frame."""
    confidence: float
    """Mean score of all found cells; SAM's score is the IoU that it predicts for its mask."""
    mean_average_precision: float
    """mAP over IoU 0.50:0.05:0.95, see `benchmarks.harness.average_precision`."""
    average_precision: Mapping[str, float]
    """IoU threshold, ``"0.50"`` to ``"0.95"`` -> precision, averaged at the study's 11 recalls."""
    ap50: float | None
    """COCO's AP50: at IoU 0.50, with precision read at 101 recalls."""
    recall: float | None
    """Share of annotated cells that are matched; `training.evaluation` defines it and the
    next three."""
    precision: float | None
    f1: float | None
    panoptic_quality: float | None


@dataclass(frozen=True, kw_only=True)
class PromptedQuality:
    """Quality of SAM's masks of true boxes over all frames; NaN if no cell is annotated."""

    iou: float
    """Mean mask IoU over all annotated cells."""
    above_half: float
    """Share of them whose mask has IoU >= 0.5."""
    box_iou: float
    """Mean mask IoU of the prompts themselves, the filled boxes, which SAM has to surpass."""
    quality: float
    """Mean of the IoU that SAM predicts for its masks."""
    cells: int


@dataclass(frozen=True, kw_only=True)
class FrameFound:
    """One frame."""

    name: str
    height: int
    width: int
    cells: int
    found: Mapping[str, int]
    """Pipeline -> number of cells."""
    prompted_iou: float | None
    """Mean mask IoU of prompted cells; None if no cell is annotated."""


@dataclass(frozen=True, kw_only=True)
class InstancesResult(Result):
    """Study S4's table on one data set."""

    pipelines: Mapping[str, InstanceQuality]
    box_prompts: PromptedQuality
    speed: Mapping[str, Speed]
    """Pipeline -> its speed."""
    frames: tuple[FrameFound, ...]
    timed_frames: tuple[str, ...]
    repeats: int
    score_threshold: Mapping[str, float]
    """Pipeline -> threshold."""
    overlap_threshold: float
    class_names: tuple[str, ...]
    sam_size: str


def instances_page(result: InstancesResult) -> str:
    """Return all tables of a result."""
    tables = [quality_table(result), speed_table(result.speed), prompts_table(result.box_prompts)]
    return "\n\n".join(tables) + "\n\n" + "\n".join(f"{note}\n" for note in notes(result))


def quality_table(result: InstancesResult) -> str:
    """Return the study's table and usual figures: ours beside those on the study's data sets."""
    both = " / ".join(NAMES.values())
    one, other = (result.pipelines[name] for name in NAMES)
    studies, unpublished = S4.values(), [""] * len(S4)

    def pair(figure: Callable[[InstanceQuality], float | None], digits: int = 3) -> str:
        values = figure(one), figure(other)
        texts = [f"{value:.{digits}f}" for value in values if value is not None]
        return " / ".join(texts) if len(texts) == len(values) else ABSENT

    def published(values: Mapping[str, float]) -> str:
        return " / ".join(f"{values[name]:.3f}" for name in NAMES)

    return markdown_table(
        ["", "here", *(f"study: {name}" for name in S4)],
        [
            [
                *("cells per image, truth", f"{one.annotated:.1f}"),
                *(f"{study.annotated:g}" for study in studies),
            ],
            [
                *(f"found by {both}", pair(lambda q: q.found, 1)),
                *(f"{study.found:g}" for study in studies),
            ],
            [
                *(f"confidence {both}", pair(lambda q: q.confidence)),
                *(published(study.confidence) for study in studies),
            ],
            [
                *(f"mAP {both}", pair(lambda q: q.mean_average_precision)),
                *(published(study.mean_average_precision) for study in studies),
            ],
            [
                *(f"AP50 (11 recalls) {both}", pair(lambda q: q.average_precision["0.50"])),
                *unpublished,
            ],
            [f"AP50 (COCO) {both}", pair(lambda q: q.ap50), *unpublished],
            [f"recall {both}", pair(lambda q: q.recall), *unpublished],
            [f"precision {both}", pair(lambda q: q.precision), *unpublished],
            [f"F1 {both}", pair(lambda q: q.f1), *unpublished],
            [f"PQ {both}", pair(lambda q: q.panoptic_quality), *unpublished],
        ],
    )


def prompts_table(quality: PromptedQuality) -> str:
    """Return how good SAM's masks of true boxes are."""
    return markdown_table(
        ["`sam_prompt`, given the boxes of annotated cells", ""],
        [
            ["mean mask IoU", f"{quality.iou:.3f}"],
            ["share with IoU >= 0.5", f"{quality.above_half:.3f}"],
            ["mean IoU of the filled boxes", f"{quality.box_iou:.3f}"],
            ["mean quality that SAM predicts", f"{quality.quality:.3f}"],
            ["cells", f"{quality.cells}"],
        ],
    )


def notes(result: InstancesResult) -> list[str]:
    """Return what the tables are of, one paragraph each."""
    return [
        f"{len(result.frames)} frames, classes {', '.join(result.class_names)}, SAM of size "
        f"{result.sam_size} (the study's: ViT-H). Cells of Mask R-CNN scored "
        f"{score_threshold_text(result.score_threshold)} or more; of two of which one covers "
        f"more than {result.overlap_threshold:g} of the smaller one's mask one (the study's "
        "way: of two boxes with so large an IoU). mAP over IoU 0.50:0.05:0.95, 11-point "
        "interpolation, all frames together. COCO's AP50 reads precision at 101 recalls. Recall, "
        "precision, F1 and PQ (panoptic quality) are of cells matched at mask IoU >= 0.5, "
        "whatever their class.",
        f"Seconds are medians over {', '.join(result.timed_frames)}, {result.repeats} rounds "
        "in turn, end to end; nothing came from a response cache. The study's way is torchvision, "
        "then `SamPredictor` box by box, on the same weights.",
        machine_note(result.machine),
    ]
