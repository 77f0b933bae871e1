"""Fills the table of study S1 from any annotated data set: both approaches through the server.

\b
    python -m benchmarks.approaches --data data/test --cells runs/general \\
        --targets runs/targets --classifier runs/classifier --json approaches.json

Quality is measured on the answers of the embedded server: IoU, accuracy, recall, precision, F1 and
panoptic quality of cells matched at mask IoU 0.5, and COCO's AP50, the mean over classes.

Seconds are end to end, from the camera frame as an array to finished cells. One run measures, frame
by frame and interleaved: the server (`served`), the same weights as the study ran them, in
PyTorch (`baseline`), and the same ONNX graphs without a server, with the same client
(`in_process`). `--variant` also times a second server with that variant of the repository. Each
ratio is the median over frames of the frames' own ratios, so it is valid on a busy machine.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt
from rich.progress import track

from benchmarks.approaches.result import (
    ApproachesResult,
    ApproachFrame,
    ApproachQuality,
    ServedSeconds,
    UsualCost,
    approaches_page,
)
from benchmarks.harness.average_precision import EncodedFrame, ap50, encode_frame
from benchmarks.harness.in_process import InProcess
from benchmarks.harness.load import USUAL_CELLS
from benchmarks.harness.options import (
    checkpoint_option,
    json_option,
    markdown_option,
    repository_option,
    score_threshold_option,
    score_thresholds,
    variants_option,
)
from benchmarks.harness.results import made_by, write_result
from benchmarks.harness.served_weights import check_weights
from benchmarks.harness.serving import serve_without_health_checks
from benchmarks.harness.timing import Slope, median_ratio, time_interleaved
from cytoserve import Cells, Client
from cytoserve.contract import OVERLAP_THRESHOLD
from export.parity.reference import normalised_rgb
from export.resnet.reference import classify_one_by_one
from export.yolo.reference import UltralyticsYolo
from server.errors import ServerError
from server.variants import DEFAULT
from training.checkpoint import CheckpointError
from training.datasets.annotated import AnnotatedDataset
from training.evaluation import FrameMatches, match_cells, quality
from training.resnet.network import load_classifier
from training.run.command_line import data_option, read_data
from training.yolo.network import load_network

PIPELINES = ("yolo", "yolo_resnet")

Image = npt.NDArray[Any]
Approach = Callable[[Image], object]


@dataclass(frozen=True)
class Checkpoints:
    """Folders of the weights that the repository serves."""

    cells: Path
    targets: Path
    classifier: Path

    def by_step(self) -> dict[tuple[str, str], Path]:
        """Return the folder of every measured pipeline and network step."""
        return {
            ("yolo", "yolo_targets"): self.targets,
            ("yolo_resnet", "yolo_cells"): self.cells,
            ("yolo_resnet", "resnet50_cells"): self.classifier,
        }


def baseline(checkpoints: Checkpoints, thresholds: Mapping[str, float]) -> dict[str, Approach]:
    """Return both approaches as the study ran them: ultralytics' predictor, then a loop over crops.

    The predictor sees a frame as a whole, shrunk to 640 pixels if it is larger. Frames are
    normalised to 8 bits beforehand, which is not timed: the study's images were 8 bits.
    """
    targets = UltralyticsYolo(load_network(checkpoints.targets)[0], masks_on_frame=False)
    cells = UltralyticsYolo(load_network(checkpoints.cells)[0], masks_on_frame=False)
    classifier = load_classifier(checkpoints.classifier)[0]

    def fine_tuned(rgb: Image) -> object:
        result = targets.predict(rgb, thresholds["yolo"], OVERLAP_THRESHOLD)
        return result.masks.xy if result.masks else []

    def segmented_and_classified(rgb: Image) -> object:
        result = cells.predict(rgb, thresholds["yolo_resnet"], OVERLAP_THRESHOLD)
        polygons = [polygon for polygon in result.masks.xy if len(polygon)] if result.masks else []
        return classify_one_by_one(classifier, rgb, polygons)

    return {"yolo": fine_tuned, "yolo_resnet": segmented_and_classified}


def through(client: Client, thresholds: Mapping[str, float]) -> dict[str, Callable[[Image], Cells]]:
    """Return both pipelines through a client of a server, or of graphs in this process."""

    def approach(name: str) -> Callable[[Image], Cells]:
        return lambda image: client.segment(image, name, score_threshold=thresholds[name])

    return {name: approach(name) for name in PIPELINES}


def measure(
    dataset: AnnotatedDataset,
    client: Client,
    alone: Client,
    variants: Mapping[str, Client],
    checkpoints: Checkpoints,
    *,
    repeats: int,
    score_threshold: float | None,
) -> ApproachesResult:
    """Run everything on one frame after the other.

    Args:
        dataset: annotated frames.
        client: client of the server.
        alone: client of the same graphs in this process.
        variants: name -> client of a server of that variant.
        checkpoints: weights that all of them were exported from.
        repeats: timed rounds per frame.
        score_threshold: threshold for all contenders; None takes those of the cards.

    Raises:
        CheckpointError: a server answers with other weights.
    """
    for each in (client, *variants.values()):
        check_weights(each, checkpoints.by_step())
    thresholds = score_thresholds(client, PIPELINES, score_threshold)
    ours = through(client, thresholds)
    ways: dict[str, dict[str, Any]] = {
        DEFAULT: ours,
        **{name: through(each, thresholds) for name, each in variants.items()},
        "in_process": through(alone, thresholds),
        "baseline": baseline(checkpoints, thresholds),
    }
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    matches: dict[str, list[FrameMatches]] = {name: [] for name in PIPELINES}
    encoded: dict[str, list[EncodedFrame]] = {name: [] for name in PIPELINES}
    for frame in track(dataset.frames, "measuring", transient=True):
        image = frame.read()
        for name in PIPELINES:
            answer = ours[name](image)
            matches[name].append(match_cells(answer, frame.cells))
            encoded[name].append(encode_frame(answer, frame.cells))
        for key, times in _time_frame(ways, image, repeats).items():
            seconds[key].append(statistics.median(times))
    found = {name: [frame.found for frame in matches[name]] for name in PIPELINES}
    took = {name: seconds[DEFAULT, name] for name in PIPELINES}
    return ApproachesResult(
        **made_by("approaches"),
        approaches={
            name: ApproachQuality(
                **asdict(quality(matches[name])),
                ap50=ap50(encoded[name], len(dataset.class_names)),
                found_per_image=statistics.mean(found[name]),
            )
            for name in PIPELINES
        },
        served={name: _compared(seconds, name) for name in (DEFAULT, *variants)},
        in_process=_medians(seconds, "in_process"),
        baseline=_medians(seconds, "baseline"),
        cost_of_classes=median_ratio(took["yolo_resnet"], took["yolo"]),
        cost_of_usual_cells=_cost_of_usual_cells(took, found["yolo_resnet"]),
        cells_per_image=statistics.mean(len(frame.cells) for frame in dataset.frames),
        frames=tuple(_frame_rows(dataset, found, seconds, ways)),
        repeats=repeats,
        score_threshold=thresholds,
        class_names=tuple(client.card("yolo_resnet").class_names),
    )


def _frame_rows(
    dataset: AnnotatedDataset,
    found: Mapping[str, Sequence[int]],
    seconds: Mapping[tuple[str, str], Sequence[float]],
    ways: Iterable[str],
) -> Iterator[ApproachFrame]:
    """Yield a row per frame from the counts by pipeline, and the seconds by way and pipeline."""
    for n, frame in enumerate(dataset.frames):
        yield ApproachFrame(
            name=frame.name,
            height=frame.height,
            width=frame.width,
            cells=len(frame.cells),
            found={name: counts[n] for name, counts in found.items()},
            seconds={way: {name: seconds[way, name][n] for name in PIPELINES} for way in ways},
        )


def _time_frame(
    ways: dict[str, dict[str, Any]], image: Image, repeats: int
) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of every contender and pipeline, interleaved: load hits them all alike."""
    rgb = normalised_rgb(image)
    return time_interleaved(
        {
            (way, name): partial(run, rgb if way == "baseline" else image)
            for way, pipelines in ways.items()
            for name, run in pipelines.items()
        },
        repeats,
    )


def _medians(seconds: Mapping[tuple[str, str], Sequence[float]], way: str) -> dict[str, float]:
    return {name: statistics.median(seconds[way, name]) for name in PIPELINES}


def _compared(seconds: Mapping[tuple[str, str], Sequence[float]], way: str) -> ServedSeconds:
    """Compare a server with the reference implementation and with its own graphs, per pipeline."""
    took = {name: seconds[way, name] for name in PIPELINES}
    return ServedSeconds(
        seconds=_medians(seconds, way),
        speedup={n: median_ratio(seconds["baseline", n], took[n]) for n in PIPELINES},
        overhead={n: median_ratio(took[n], seconds["in_process", n]) for n in PIPELINES},
    )


def _cost_of_usual_cells(
    seconds: Mapping[str, Sequence[float]], found: Sequence[int]
) -> UsualCost | None:
    """Return the ratio of both pipelines at `USUAL_CELLS` cells, from a line through the frames.

    Args:
        seconds: pipeline -> seconds of every frame.
        found: number of cells that were classified in every frame.
    """
    if len(set(found)) < 2:
        return None
    ratios = [a / b for a, b in zip(seconds["yolo_resnet"], seconds["yolo"], strict=True)]
    line = Slope.through(found, ratios)
    ratio = line.intercept + USUAL_CELLS * line.slope
    return UsualCost(cells=USUAL_CELLS, ratio=ratio, **asdict(line))


@click.command(help=__doc__, context_settings={"show_default": True})
@data_option
@checkpoint_option("--cells", "the one-class network (`yolo_cells`)")
@checkpoint_option("--targets", "the fine-tuned network (`yolo_targets`)")
@checkpoint_option("--classifier", "the classifier (`resnet50_cells`)")
@json_option
@markdown_option
@repository_option
@variants_option
@click.option("--url", help="Measure a server that runs. Default: start the embedded one.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Timed rounds per frame.")
@score_threshold_option
def main(
    data: Sequence[str],
    cells: Path,
    targets: Path,
    classifier: Path,
    json_file: Path,
    markdown: Path | None,
    model_repository: Path,
    variants: Sequence[str],
    url: str | None,
    repeats: int,
    score_threshold: float | None,
) -> None:
    """Measure both approaches; the module's docstring is the help."""
    dataset, _ = read_data(data, one_class=False)
    with ExitStack() as stack:

        def serve(variant: str) -> str:
            return stack.enter_context(
                serve_without_health_checks(model_repository, PIPELINES, variant)
            ).url

        in_process = InProcess(model_repository, PIPELINES)
        alone = stack.enter_context(Client(transport=in_process))
        try:
            client = stack.enter_context(Client(url or serve(DEFAULT)))
            others = {name: stack.enter_context(Client(serve(name))) for name in variants}
            result = measure(
                dataset,
                client,
                alone,
                others,
                Checkpoints(cells, targets, classifier),
                repeats=repeats,
                score_threshold=score_threshold,
            )
        except (CheckpointError, ServerError) as error:
            raise click.ClickException(str(error)) from error
    write_result(result, approaches_page(result), json_file, markdown)


if __name__ == "__main__":
    main()
