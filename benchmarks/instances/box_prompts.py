"""Prompts SAM with boxes of annotated cells: measures quality of masks and cost of prompts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.load import new_frames
from benchmarks.harness.timing import time_interleaved
from benchmarks.instances.quality import mean_or_nan
from cytoserve import Cells, Client, Prompts
from cytoserve.codec.prompted import encode_request
from cytoserve.contract import PIPELINES, STEPS
from cytoserve.patches import regions
from export.parity.chain import Arrays, Chain
from training.datasets.annotated import AnnotatedCell
from training.evaluation import mask_iou

PROMPTS = 42
"""Number of boxes in a timed request: the cells of a dense frame in study S4."""

Image = npt.NDArray[Any]


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


@dataclass(frozen=True)
class PromptedQuality:
    """Quality of the masks of true boxes over all frames; NaN if no cell is annotated."""

    iou: float
    """Mean mask IoU over all annotated cells."""
    above_half: float
    """Share of them whose mask has IoU >= 0.5."""
    box_iou: float
    """Mean mask IoU of the prompts themselves, the filled boxes, which SAM has to surpass."""
    quality: float
    """Mean of the IoU that SAM predicts for its masks."""
    cells: int


def prompted_quality(answers: Sequence[tuple[Cells, Sequence[AnnotatedCell]]]) -> PromptedQuality:
    """Return the figures over the cells of all frames together; see `prompted_ious`."""
    ious = [iou for answer, cells in answers for iou in prompted_ious(answer, cells)]
    filled = [cell.area / cell.mask.size for _, cells in answers for cell in cells]
    qualities = [float(score) for answer, _ in answers for score in answer.scores]
    return PromptedQuality(
        iou=mean_or_nan(ious),
        above_half=mean_or_nan([float(iou >= 0.5) for iou in ious]),
        box_iou=mean_or_nan(filled),
        quality=mean_or_nan(qualities),
        cells=len(ious),
    )


@dataclass(frozen=True)
class PromptCost:
    """Median seconds for several boxes and for single ones, in pipeline `sam_prompt`."""

    prompts: int
    """Number of boxes that "all" means below."""
    first: float
    """Seconds for one box on a frame that the server has not seen."""
    second: float
    """Seconds for another box on the same frame."""
    together: float
    """Seconds for all boxes in one request, on a frame that the server has seen."""
    one_by_one: float
    """Seconds for a request per box, all boxes together."""
    decoder_together: float
    """Seconds for all boxes in one run of the decoder's graph in this process."""
    decoder_one_by_one: float
    """Seconds for a run of the graph per box, all boxes together."""

    @property
    def second_share(self) -> float:
        """Seconds of the second prompt / of the first one."""
        return self.second / self.first

    @property
    def together_share(self) -> float:
        """Seconds of one request with all boxes / of a request per box."""
        return self.together / self.one_by_one

    @property
    def decoder_share(self) -> float:
        """Seconds of one run of the decoder's graph with all boxes / of a run per box."""
        return self.decoder_together / self.decoder_one_by_one

    @property
    def served_share(self) -> float:
        """Seconds of one request with all boxes / of a run of the decoder's graph per box."""
        return self.together / self.decoder_one_by_one

    def figures(self) -> dict[str, float]:
        """Return seconds and shares by name."""
        return {
            **vars(self),
            "second_share": self.second_share,
            "together_share": self.together_share,
            "decoder_share": self.decoder_share,
            "served_share": self.served_share,
        }


def measure_prompt_cost(
    client: Client,
    chain: Chain,
    image: Image,
    boxes: npt.NDArray[np.float32],
    repeats: int,
) -> PromptCost:
    """Time prompts on one frame.

    Args:
        client: client of a server with pipeline `sam_prompt`.
        chain: the same pipeline's graphs in this process.
        image: a camera frame.
        boxes: float32 ``[N, 4]``, N >= 1, in frame pixels; repeated to give `PROMPTS` boxes.
        repeats: number of timed rounds.
    """
    boxes = np.resize(boxes, (PROMPTS, 4))
    first: list[float] = []
    second: list[float] = []
    for frame in new_frames(image, repeats):
        for seconds, box in ((first, boxes[:1]), (second, boxes[1:2])):
            start = time.perf_counter()
            client.prompt(frame, Prompts(boxes=box))
            seconds.append(time.perf_counter() - start)
    decode = decoder_runs(chain, image)
    served = time_interleaved(
        {
            "together": lambda: client.prompt(image, Prompts(boxes=boxes)),
            "one_by_one": lambda: [client.prompt(image, Prompts(boxes=box[None])) for box in boxes],
            "decoder_together": lambda: decode(boxes),
            "decoder_one_by_one": lambda: [decode(box[None]) for box in boxes],
        },
        repeats,
    )
    return PromptCost(
        PROMPTS,
        statistics.median(first),
        statistics.median(second),
        **{name: statistics.median(seconds) for name, seconds in served.items()},
    )


def decoder_runs(chain: Chain, image: Image) -> Callable[[npt.NDArray[np.float32]], Arrays]:
    """Embed a frame, and return a function that runs the decoder's graph on boxes ``[N, 4]``."""

    def tensors(boxes: npt.NDArray[np.float32]) -> Arrays:
        return dict(encode_request(image, PIPELINES[chain.pipeline], Prompts(boxes=boxes)).inputs)

    whole = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
    values = _run(chain, "sam_prepare", tensors(whole))
    values |= _run(chain, "sam_encoder", values)
    return lambda boxes: _run(chain, "sam_decoder", tensors(boxes) | values)


def _run(chain: Chain, name: str, values: Arrays) -> Arrays:
    step, session = STEPS[name], chain.sessions[name]
    names = [tensor.name for tensor in step.outputs]
    feeds = {tensor.name: values[tensor.name] for tensor in step.inputs}
    return dict(zip(names, session.run(names, feeds), strict=True))
