"""The result of `benchmarks.approaches`: its figures, bounds, and page with study S1's beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness.bounds import Bound
from benchmarks.harness.options import score_threshold_text
from benchmarks.harness.results import Result, machine_note, table_of
from benchmarks.published import S1, ApproachFigures
from cytoserve.contract import SINGLE_GRAPH
from server.variants import DEFAULT


@dataclass(frozen=True, kw_only=True)
class ApproachQuality:
    """Figures of the server's answers; `training.evaluation` defines all but the last two.

    NaN if there is nothing to measure.
    """

    iou: float
    accuracy: float
    balanced_accuracy: float
    recall: float
    precision: float
    f1: float
    panoptic_quality: float
    ap50: float
    """COCO's average precision at IoU 0.50, the mean over classes."""
    found_per_image: float


@dataclass(frozen=True, kw_only=True)
class ServedSeconds:
    """A server's median seconds per frame by pipeline, and the medians of each frame's ratios."""

    seconds: Mapping[str, float]
    speedup: Mapping[str, float]
    """The study's way / served."""
    overhead: Mapping[str, float]
    """Served / in process."""


@dataclass(frozen=True, kw_only=True)
class UsualCost:
    """`yolo_resnet` / `yolo` at a number of cells, by the least-squares line through the frames."""

    cells: int
    ratio: float
    slope: float
    intercept: float
    r_squared: float
    points: int


@dataclass(frozen=True, kw_only=True)
class ApproachFrame:
    """One frame."""

    name: str
    height: int
    width: int
    cells: int
    found: Mapping[str, int]
    """Pipeline -> number of cells."""
    seconds: Mapping[str, Mapping[str, float]]
    """Contender -> pipeline -> median seconds."""


@dataclass(frozen=True, kw_only=True)
class ApproachesResult(Result):
    """Study S1's table on one data set."""

    approaches: Mapping[str, ApproachQuality]
    """Pipeline -> quality of its answers."""
    served: Mapping[str, ServedSeconds]
    """`DEFAULT` and further variants of the repository -> times."""
    in_process: Mapping[str, float]
    """Pipeline -> seconds of the same graphs without a server."""
    baseline: Mapping[str, float]
    """Pipeline -> seconds of the same weights as the study ran them."""
    cost_of_classes: float
    """Median over frames of `yolo_resnet` / `yolo`, both served."""
    cost_of_usual_cells: UsualCost | None
    """None if all frames have the same number of cells."""
    cells_per_image: float
    """Annotated cells."""
    frames: tuple[ApproachFrame, ...]
    repeats: int
    score_threshold: Mapping[str, float]
    """Pipeline -> threshold."""
    class_names: tuple[str, ...]


def _overheads(result: ApproachesResult, variant: str) -> Mapping[str, float]:
    return result.served[variant].overhead if variant in result.served else {}


REAL_FRAMES: tuple[Bound[ApproachesResult], ...] = (
    Bound(
        "Overhead of the server, real frames",
        "served / the same graphs in process, blood cells",
        "<=",
        1.1,
        lambda r: _overheads(r, DEFAULT).items(),
    ),
    Bound(
        "Overhead of the server, real frames, variant `single-graph`",
        "served / the same graphs in process, blood cells",
        "<=",
        1.1,
        lambda r: _overheads(r, SINGLE_GRAPH).items(),
    ),
    Bound(
        "Cost of classes, real frames",
        "`yolo_resnet` / `yolo`, both served, blood cells, by the line through the frames at 15 "
        "found cells (the study: 3.25)",
        "<=",
        1.6,
        lambda r: [("", r.cost_of_usual_cells.ratio)] if r.cost_of_usual_cells else [],
    ),
    Bound(
        "Speed, real frames",
        "the study's way / `yolo_resnet` served, blood cells",
        ">=",
        4,
        lambda r: [("", r.served[DEFAULT].speedup["yolo_resnet"])],
    ),
)
"""Bounds on blood cells, see `benchmarks.bccd`."""


def approaches_page(result: ApproachesResult) -> str:
    """Return the tables of quality and of time."""
    study_cost = S1["yolo_resnet"].seconds / S1["yolo"].seconds
    usual = ""
    if line := result.cost_of_usual_cells:
        usual = (
            f", and {line.ratio:.2f} times where {line.cells} cells are found, by the "
            "least-squares line through the frames"
        )
    notes = [
        f"{len(result.frames)} frames, {result.cells_per_image:.1f} annotated cells a frame, "
        f"classes {', '.join(result.class_names)}. IoU, recall, precision, F1 and PQ (panoptic "
        "quality) are of cells matched at mask IoU >= 0.5, whatever their class; accuracies are "
        "over matched cells. AP50 is COCO's, the mean over classes, of cells scored "
        f"{score_threshold_text(result.score_threshold)} or more. Seconds are medians over "
        "frames, end to end, ratios those of each frame's own.",
        f"`yolo_resnet` costs {result.cost_of_classes:.2f} times `yolo`{usual} (the study: "
        f"{study_cost:.2f} times).",
        machine_note(result.machine),
    ]
    parts = [_quality(result), "", _seconds(result), ""]
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])


def _quality(result: ApproachesResult) -> str:
    Item = tuple[str, ApproachFigures]

    def ours(figure: Callable[[ApproachQuality], float], digits: int = 3) -> Callable[[Item], str]:
        return lambda item: f"{figure(result.approaches[item[0]]):.{digits}f}"

    return table_of(
        S1.items(),
        {
            "approach": lambda item: item[1].name,
            "pipeline": lambda item: f"`{item[0]}`",
            "IoU": ours(lambda q: q.iou),
            "Accuracy": ours(lambda q: q.accuracy),
            "balanced accuracy": ours(lambda q: q.balanced_accuracy),
            "recall": ours(lambda q: q.recall),
            "precision": ours(lambda q: q.precision),
            "F1": ours(lambda q: q.f1),
            "AP50": ours(lambda q: q.ap50),
            "PQ": ours(lambda q: q.panoptic_quality),
            "found a frame": ours(lambda q: q.found_per_image, 1),
            "s per frame": lambda item: f"{result.served[DEFAULT].seconds[item[0]]:.3f}",
            "study: IoU": lambda item: f"{item[1].iou:.2f}",
            "study: Accuracy": lambda item: f"{item[1].accuracy:.2f}",
            "study: s": lambda item: f"{item[1].seconds:g}",
        },
    )


def _seconds(result: ApproachesResult) -> str:
    rows = [(variant, name) for variant in result.served for name in S1]
    return table_of(
        rows,
        {
            "pipeline": lambda row: (
                f"`{row[1]}`" + (f", variant `{row[0]}`" if row[0] != DEFAULT else "")
            ),
            "served s": lambda row: f"{result.served[row[0]].seconds[row[1]]:.3f}",
            "in process s": lambda row: f"{result.in_process[row[1]]:.3f}",
            "overhead": lambda row: f"{result.served[row[0]].overhead[row[1]]:.2f}",
            "the study's way s": lambda row: f"{result.baseline[row[1]]:.3f}",
            "speedup": lambda row: f"{result.served[row[0]].speedup[row[1]]:.2f}",
        },
    )
