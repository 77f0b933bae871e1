"""Health checks of the pipelines, by canaries.

A canary is a tiny request through a whole pipeline, sent while nobody else uses it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
)
from tritonclient.utils import InferenceServerException

from cytoserve.contract import (
    COARSE_BOXES,
    COARSE_MASKS,
    DEFAULT_MAX_CELLS,
    IMAGE,
    MAX_CELLS_INPUT,
    OVERLAP_THRESHOLD,
    OVERLAP_THRESHOLD_INPUT,
    POINT_LABELS,
    PROBABILITY_THRESHOLD_INPUT,
    PROMPT_LABELS,
    PROMPT_POINTS,
    SCALE_INPUT,
    SCORE_THRESHOLD_INPUT,
    TILE_OVERLAP_INPUT,
    WHITE_LEVEL_INPUT,
    Pipeline,
)

VALUES: dict[str, np.ndarray[Any, Any]] = {
    # A ramp, so that normalisation has a range to work with.
    IMAGE.name: np.arange(32 * 32, dtype=np.uint16).reshape(32, 32, 1),
    SCALE_INPUT.name: np.array([1.0], np.float32),
    TILE_OVERLAP_INPUT.name: np.array([0.0], np.float32),
    # Above every score: whatever a network sees in the ramp, a canary does not pay for cells.
    SCORE_THRESHOLD_INPUT.name: np.array([1.0], np.float32),
    OVERLAP_THRESHOLD_INPUT.name: np.array([OVERLAP_THRESHOLD], np.float32),
    MAX_CELLS_INPUT.name: np.array([DEFAULT_MAX_CELLS], np.int32),
    PROBABILITY_THRESHOLD_INPUT.name: np.array([1.0], np.float32),
    WHITE_LEVEL_INPUT.name: np.array([32 * 32 - 1], np.float32),
    # One click in the middle, with a padding point, as SAM reads it.
    PROMPT_POINTS.name: np.array([[[16, 16], [0, 0]]], np.float32),
    PROMPT_LABELS.name: np.array([[POINT_LABELS["foreground"], POINT_LABELS["none"]]], np.int32),
    COARSE_MASKS.name: np.empty((0, *COARSE_MASKS.dims[1:]), np.uint8),
    COARSE_BOXES.name: np.empty((0, *COARSE_BOXES.dims[1:]), np.float32),
}

MIN_INTERVAL_S = 2.0
"""Minimum seconds between two checks of a pipeline: a canary costs as much as a frame."""

MAX_CANARY_TIME_SHARE = 0.05
"""Maximum share of the time that a pipeline's canaries take: slow networks are checked less."""

FRAME_LIFETIME_S = 300.0
"""Seconds after which canaries carry another frame.

A step whose answers are in Triton's response cache does not run for a frame that it has seen. A new
frame every time would push out of the cache what users come back to.
"""

MIN_DEADLINE_S = 60.0
"""Minimum deadline, in seconds, for a canary or any other request of its pipeline.

It is long, because a canary that waits behind others' requests is no sign of death. A worker's
death shows in its process within a second."""

SLOWDOWN_FACTOR = 10.0
"""Factor by which a canary may take longer than the first one of its server.

SAM's largest encoder alone may take a minute on a processor."""

BUSY_CPU_SHARE = 0.2
"""Minimum share of one core that a pipeline's workers use while they compute.

As long as they use that much for others' requests, they are slow, not dead."""

CALL_TIMEOUT_S = 1.0
"""Timeout, in seconds, of a question that the server answers without running a model."""

ERRORS_TO_FAIL = 2
"""Number of error answers in a row that count as death; the second canary follows at once."""


class Canary:
    """Watches one pipeline with canaries, one at a time, without ever waiting for one.

    Args:
        client: client of the server.
        pipeline: pipeline to watch.
        deadline: seconds within which a canary, or any other request of the pipeline, must be
            answered.
        worked: returns the processor seconds that the workers of the named models have used.
    """

    def __init__(
        self,
        client: InferenceServerClient,
        pipeline: Pipeline,
        deadline: float = MIN_DEADLINE_S,
        worked: Callable[[Collection[str]], float] = lambda models: 0.0,
    ) -> None:
        self.client = client
        self.pipeline = pipeline
        self.deadline = deadline
        self.worked = worked
        self.worked_before = 0.0
        self.answers: queue.SimpleQueue[InferenceServerException | None] = queue.SimpleQueue()
        self.flying = False
        self.sent = 0.0
        self.errors = 0
        self.due = time.monotonic() + MIN_INTERVAL_S
        self.count = answered(client, pipeline)

    def failure(self) -> str | None:
        """Send a canary or take its answer, as is due; say why the pipeline is dead, if it is."""
        if not self.flying:
            if time.monotonic() >= self.due:
                self.send_unless_used()
            return None
        try:
            error = self.answers.get_nowait()
        except queue.Empty:
            return None
        self.flying = False
        reason = self.judge(error)
        now = time.monotonic()
        self.due = now + (
            0 if self.errors else max(MIN_INTERVAL_S, (now - self.sent) / MAX_CANARY_TIME_SHARE)
        )
        self.count = answered(self.client, self.pipeline)
        return reason

    def send_unless_used(self) -> None:
        """Send a canary, unless the pipeline has answered others since the last look."""
        count = answered(self.client, self.pipeline)
        if count != self.count:
            self.count = count
            self.due = time.monotonic() + MIN_INTERVAL_S
            return
        self.flying, self.sent = True, time.monotonic()
        self.worked_before = self.worked(self.pipeline.steps)
        self.client.async_infer(
            self.pipeline.name,
            inputs(self.pipeline),
            lambda result, error: self.answers.put(error),
            outputs=outputs(self.pipeline),
            client_timeout=self.deadline,
        )

    def judge(self, error: InferenceServerException | None) -> str | None:
        """Say what an answer means: why the pipeline is dead, or None."""
        if error is None:
            self.errors = 0
            return None
        status = status_of(error)
        if status in ("NOT_FOUND", "UNAVAILABLE"):  # unloaded on purpose, or its queue is full
            return None
        if status == "DEADLINE_EXCEEDED":
            used = answered(self.client, self.pipeline) != self.count
            worked = self.worked(self.pipeline.steps) - self.worked_before
            silence = f"No request of {self.pipeline.name} ended in {self.deadline:.0f} s"
            return None if used or worked > BUSY_CPU_SHARE * self.deadline else silence
        self.errors += 1
        if self.errors < ERRORS_TO_FAIL:
            return None
        return f"The canary of {self.pipeline.name} failed: {error.message()}"


def first_answer(client: InferenceServerClient, pipeline: Pipeline, timeout: float) -> float:
    """Send the first canary, wait for its answer, and return the deadline of later ones.

    Raise `InferenceServerException` if it fails, or takes longer than ``timeout`` seconds.
    """
    begun = time.monotonic()
    client.infer(pipeline.name, inputs(pipeline), outputs=outputs(pipeline), client_timeout=timeout)
    return max(MIN_DEADLINE_S, SLOWDOWN_FACTOR * (time.monotonic() - begun))


def inputs(pipeline: Pipeline) -> list[InferInput]:
    """Return a canary's inputs: a 32 x 32 px frame, thresholds that let no cell pass, a click."""
    values = VALUES | {IMAGE.name: frame(time.monotonic())}
    tensors = []
    for tensor in pipeline.inputs:
        value = values[tensor.name]
        tensors.append(InferInput(tensor.name, value.shape, tensor.dtype))
        tensors[-1].set_data_from_numpy(value)
    return tensors


def frame(now: float) -> np.ndarray[Any, Any]:
    """Return the frame that canaries carry at ``now``; it changes every ``FRAME_LIFETIME_S``."""
    ramp = VALUES[IMAGE.name].copy()
    ramp.flat[0] = int(now / FRAME_LIFETIME_S) % (ramp.size - 1)  # the range of the ramp stays
    return ramp


def outputs(pipeline: Pipeline) -> list[InferRequestedOutput]:
    """Return the outputs that a canary asks for: all that an ordinary request gets."""
    return [InferRequestedOutput(tensor.name) for tensor in pipeline.outputs]


def answered(client: InferenceServerClient, pipeline: Pipeline) -> int:
    """Return how many requests the pipeline has answered; -1 if the server does not say.

    Answers with an error do not count.
    """
    try:
        statistics = client.get_inference_statistics(pipeline.name, client_timeout=CALL_TIMEOUT_S)
    except InferenceServerException:
        return -1
    return int(statistics.model_stats[0].inference_stats.success.count)


def status_of(error: InferenceServerException) -> str:
    """Return the gRPC status of an error by its plain name."""
    return str(error.status()).removeprefix("StatusCode.")
