"""Fills the table of study S4 from any annotated data set: both pipelines through the server.

\b
    python -m benchmarks.instances --data data/t98g@benchmarks/t98g/test.txt \\
        --maskrcnn runs/t98g-instances/maskrcnn --sam runs/t98g-instances/sam \\
        --json instances.json

mAP is that of the server's answers, over IoU 0.50:0.05:0.95 with 11-point interpolation, all frames
together. Seconds are end to end. One run interleaves the server, the same weights as the study ran
them (torchvision, then `SamPredictor` box by box), and the same ONNX graphs without a server. SAM
is also prompted with the boxes of the annotated cells, through `sam_prompt`, which gives its own
mask IoU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torchvision.models.detection import MaskRCNN

from benchmarks.harness.average_precision import ap50, encode_frame, mean_average_precision
from benchmarks.harness.in_process import InProcess
from benchmarks.harness.options import (
    checkpoint_option,
    json_option,
    markdown_option,
    repository_option,
    score_threshold_option,
    score_thresholds,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import Speed, measure_speed
from benchmarks.instances.result import (
    NAMES,
    FrameFound,
    InstanceQuality,
    InstancesResult,
    PromptedQuality,
    instances_page,
)
from cytoserve import Cells, Client, Prompts
from cytoserve.contract import OVERLAP_THRESHOLD
from cytoserve.patches import regions
from export.maskrcnn.reference import TorchvisionMaskRcnn
from export.parity.reference import normalised_rgb
from server.embedded import EmbeddedServer
from server.errors import ServerError
from training.checkpoint import CheckpointError
from training.datasets.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame
from training.evaluation import mask_iou, match_cells, quality
from training.maskrcnn.network import load_maskrcnn
from training.run.command_line import data_option, read_data
from training.sam.network import load_sam

PROMPTED = "sam_prompt"
PIPELINES = (*NAMES, PROMPTED)
TIMEOUT = 600.0
"""Maximum seconds per request: a large frame is slow on a slow processor."""

Image = npt.NDArray[Any]
Way = Callable[[Image], object]


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
class Thresholds:
    """Thresholds for detections of Mask R-CNN that become cells."""

    score: Mapping[str, float]
    """Pipeline -> score threshold."""
    overlap: float = OVERLAP_THRESHOLD
    """Share of the smaller mask; the reference implementation uses it as box IoU."""


@dataclass(frozen=True)
class Answers:
    """The answer of the server for one frame."""

    frame: AnnotatedFrame
    found: Mapping[str, Cells]
    """Pipeline -> its cells."""
    prompted: Cells | None
    """Cells of `PROMPTED`, in the order of the annotated ones; None without annotated cells."""


def measure(
    dataset: AnnotatedDataset,
    server: EmbeddedServer,
    checkpoints: Checkpoints,
    score_threshold: float | None,
    overlap_threshold: float,
    *,
    repeats: int,
    timed_frames: int,
) -> InstancesResult:
    """Return the figures of the module's docstring.

    Raises:
        CheckpointError: the server answers with other weights than those of the checkpoints.
    """
    maskrcnn, _ = load_maskrcnn(checkpoints.maskrcnn)
    sam, sam_recipe = load_sam(checkpoints.sam)
    timed = dataset.frames[:timed_frames]
    in_process = InProcess(server.repository, tuple(NAMES))
    with Client(server.url, timeout=TIMEOUT) as client, Client(transport=in_process) as alone:
        check_weights(client, checkpoints.by_step())
        thresholds = Thresholds(score_thresholds(client, NAMES, score_threshold), overlap_threshold)
        ours = through(client, thresholds)
        answers = [
            ask_all(client, ours, frame)
            for frame in track(dataset.frames, "segmenting", transient=True)
        ]
        speed = measure_speeds(
            ours, through(alone, thresholds), study(maskrcnn, sam, thresholds), timed, repeats
        )
    return InstancesResult(
        **made_by("instances"),
        **quality_figures(answers, len(dataset.class_names)),
        speed=speed,
        timed_frames=tuple(frame.name for frame in timed),
        repeats=repeats,
        score_threshold=thresholds.score,
        overlap_threshold=thresholds.overlap,
        class_names=tuple(dataset.class_names),
        sam_size=sam_recipe.settings["size"],
    )


# -- The contenders -------------------------------------------------------------------------------


def through(client: Client, thresholds: Thresholds) -> dict[str, Callable[[Image], Cells]]:
    """Return both pipelines through a client of a server, or of graphs in this process."""

    def segment(name: str) -> Callable[[Image], Cells]:
        return lambda image: client.segment(
            image,
            name,
            score_threshold=thresholds.score[name],
            overlap_threshold=thresholds.overlap,
        )

    return {name: segment(name) for name in NAMES}


def study(maskrcnn: MaskRCNN, sam: Sam, thresholds: Thresholds) -> dict[str, Way]:
    """Return both pipelines as the study ran them: torchvision, then `SamPredictor` box by box.

    They take 8-bit RGB ``[H, W, 3]``, as the study's images were. Of the several masks of a box,
    the one with the best predicted quality is used.
    """
    detector, predictor = TorchvisionMaskRcnn(maskrcnn), SamPredictor(sam)

    def detect(rgb: Image, name: str = "maskrcnn") -> dict[str, torch.Tensor]:
        return detector.predict(rgb, thresholds.score[name], thresholds.overlap)

    def detect_and_prompt(rgb: Image) -> list[npt.NDArray[np.bool_]]:
        boxes = detect(rgb, "maskrcnn_sam")["boxes"].numpy()
        predictor.set_image(rgb)
        kept = []
        for box in boxes:
            masks, qualities, _ = predictor.predict(box=box, multimask_output=True)
            kept.append(masks[int(np.argmax(qualities))])
        return kept

    return {"maskrcnn": detect, "maskrcnn_sam": detect_and_prompt}


def measure_speeds(
    ours: Mapping[str, Way],
    graphs: Mapping[str, Way],
    torch: Mapping[str, Way],
    frames: Sequence[AnnotatedFrame],
    repeats: int,
) -> dict[str, Speed]:
    """Return the speed of each pipeline through the server, by its graphs, and in PyTorch."""

    def bind(name: str, image: Image) -> dict[str, Callable[[], object]]:
        return {
            "served": partial(ours[name], image),
            "in_process": partial(graphs[name], image),
            "study": partial(torch[name], normalised_rgb(image)),
        }

    images = [frame.read() for frame in frames]
    return {name: measure_speed(partial(bind, name), images, repeats) for name in NAMES}


# -- Quality --------------------------------------------------------------------------------------


def ask_all(
    client: Client, ours: Mapping[str, Callable[[Image], Cells]], frame: AnnotatedFrame
) -> Answers:
    """Send a frame to both pipelines, and with the boxes of its annotated cells to `PROMPTED`."""
    image, prompted = frame.read(), None
    if frame.cells:
        prompted = client.prompt(image, Prompts(boxes=boxes_of(frame.cells)), PROMPTED)
    return Answers(frame, {name: segment(image) for name, segment in ours.items()}, prompted)


def quality_figures(answers: Sequence[Answers], classes: int) -> dict[str, Any]:
    """Return the quality of the found cells, by pipeline, for true boxes, and by frame."""
    return {
        "pipelines": {
            name: instance_quality([(a.found[name], a.frame.cells) for a in answers], classes)
            for name in NAMES
        },
        "box_prompts": prompted_quality([(a.prompted, a.frame.cells) for a in answers]),
        "frames": tuple(map(describe, answers)),
    }


def instance_quality(
    answers: Sequence[tuple[Cells, Sequence[AnnotatedCell]]], class_count: int
) -> InstanceQuality:
    """Return the figures over all frames together, from their found and annotated cells."""
    frames = [encode_frame(found, annotated) for found, annotated in answers]
    precision = mean_average_precision(frames, class_count)
    matched = quality([match_cells(found, annotated) for found, annotated in answers])
    return InstanceQuality(
        annotated=_mean([len(cells) for _, cells in answers]),
        found=_mean([len(found) for found, _ in answers]),
        confidence=_mean([float(score) for found, _ in answers for score in found.scores]),
        mean_average_precision=_mean(list(precision.values())),
        average_precision={f"{threshold:.2f}": value for threshold, value in precision.items()},
        ap50=ap50(frames, class_count),
        recall=matched.recall,
        precision=matched.precision,
        f1=matched.f1,
        panoptic_quality=matched.panoptic_quality,
    )


def boxes_of(cells: Sequence[AnnotatedCell]) -> npt.NDArray[np.float32]:
    """Return boxes of annotated cells: float32 ``[N, 4]``, (x0, y0, x1, y1) in frame pixels."""
    return np.array([cell.box for cell in cells], np.float32).reshape(-1, 4)


def prompted_ious(answer: Cells, annotated: Sequence[AnnotatedCell]) -> list[float]:
    """Return the mask IoU of every prompt's cell and the annotated cell of the prompt.

    Args:
        answer: cells in the order of the prompts; a cell without a pixel has IoU 0.
        annotated: annotated cells in the order of the prompts.
    """
    ious = []
    found = regions(answer.boxes, answer.patches, answer.frame_shape)
    for region, cell in zip(found, annotated, strict=True):
        if region.mask.any():
            x, y = region.columns.start, region.rows.start
            ious.append(mask_iou(AnnotatedCell.cut(region.mask, cell.class_id, x=x, y=y), cell))
        else:
            ious.append(0.0)
    return ious


def prompted_quality(
    answers: Sequence[tuple[Cells | None, Sequence[AnnotatedCell]]],
) -> PromptedQuality:
    """Return the figures over the cells of all frames together; see `prompted_ious`."""
    known = [(answer, cells) for answer, cells in answers if answer is not None]
    ious = [iou for answer, cells in known for iou in prompted_ious(answer, cells)]
    return PromptedQuality(
        iou=_mean(ious),
        above_half=_mean([float(iou >= 0.5) for iou in ious]),
        box_iou=_mean([cell.area / cell.mask.size for _, cells in known for cell in cells]),
        quality=_mean([float(score) for answer, _ in known for score in answer.scores]),
        cells=len(ious),
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean; NaN if there is no value."""
    return statistics.fmean(values) if values else float("nan")


def describe(answers: Answers) -> FrameFound:
    """Return one frame of the result."""
    frame, prompted = answers.frame, answers.prompted
    return FrameFound(
        name=frame.name,
        height=frame.height,
        width=frame.width,
        cells=len(frame.cells),
        found={name: len(answers.found[name]) for name in NAMES},
        prompted_iou=None if prompted is None else _mean(prompted_ious(prompted, frame.cells)),
    )


# -- The command ----------------------------------------------------------------------------------


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
    model_repository: Path,
    repeats: int,
    timed_frames: int,
    score_threshold: float | None,
    overlap_threshold: float,
) -> None:
    """Measure both pipelines; the module's docstring is the help."""
    try:
        dataset = read_test_set(data, load_maskrcnn(maskrcnn)[1].class_names)
        with serve_without_health_checks(model_repository, PIPELINES) as server:
            result = measure(
                dataset,
                server,
                Checkpoints(maskrcnn, sam),
                score_threshold,
                overlap_threshold,
                repeats=repeats,
                timed_frames=timed_frames,
            )
    except (CheckpointError, ServerError) as error:
        raise click.ClickException(str(error)) from error
    write_result(result, instances_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
