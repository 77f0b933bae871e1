"""One submitted frame, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cytoserve.acquisition.stage import StageTransform
from cytoserve.cells import Cells
from cytoserve.foreground import Foreground

Status = Literal["answered", "dropped", "late", "failed", "skipped"]
"""What became of a frame.

* ``answered``: the server answered within the deadline;
* ``dropped``: it was not sent, for the server was busy and another frame came before it, or the
  analyzer was closed before it was answered;
* ``late``: there was no answer within the deadline;
* ``failed``: the frame was refused, no server answered, or the server answered with an error;
* ``skipped``: ``select`` left it out, so it was not submitted.
"""

NOT_SUBMITTED = -1
"""Number of a frame that ``select`` left out."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What became of one frame.

    Attributes:
        number: position of the frame among all submitted frames, from 0 on.
        status: see :data:`Status`.
        metadata: what was submitted with the frame, unchanged.
        stage: where the frame lies on the stage, for :meth:`cytoserve.Cells.to_stage_um`; None if
            it was not told.
        cells: the cells, if an instance pipeline answered.
        foreground: the foreground, if a semantic pipeline answered.
        error: why the frame failed or is late; None otherwise.
        frame: the frame, if the analyzer keeps frames until their results are known.
        reason: the same in words, also for dropped frames; empty if the frame was answered.
        waited_s: seconds from submission until the frame was sent, or until it was given up.
        total_s: seconds from submission until now, ``waited_s`` included: frame to cells.
    """

    number: int
    status: Status
    metadata: Any
    stage: StageTransform | None
    cells: Cells | None = None
    foreground: Foreground | None = None
    frame: NDArray[np.generic] | None = None
    error: Exception | None = None
    reason: str = ""
    waited_s: float = 0.0
    total_s: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether the server answered within the deadline."""
        return self.status == "answered"


class Ticket:
    """The receipt for one submitted frame.

    It keeps the frame only until the frame's result is known.

    Attributes:
        number: position of the frame among all submitted frames, from 0 on.
        metadata: what was submitted with the frame.
        stage: where the frame lies on the stage, if it was told.
    """

    def __init__(
        self,
        frame: NDArray[np.generic] | None,
        metadata: Any,
        stage: StageTransform | None,
        deadline_s: float,
        keeps_frame: bool = False,
    ) -> None:
        self.number = NOT_SUBMITTED
        self.metadata = metadata
        self.stage = stage
        self._frame = frame
        self._keeps_frame = keeps_frame
        self._submitted_at = time.monotonic()  # never the wall clock, which may jump
        self._deadline = self._submitted_at + deadline_s
        self._sent_at: float | None = None
        self._future: Future[FrameResult] = Future()
        self._future.set_running_or_notify_cancel()  # from now on nobody can cancel it

    def done(self) -> bool:
        """Whether the result is known."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> FrameResult:
        """Wait for the result. It tells of dropped, late and failed frames; it does not raise.

        Args:
            timeout: longest wait in seconds. None waits until the result is known, which is at the
                frame's deadline at the latest.

        Raises:
            TimeoutError: the result is not known in time. The frame is still being analysed.
        """
        try:
            return self._future.result(timeout)
        except FutureTimeoutError:  # a class of its own before Python 3.11
            raise TimeoutError(
                f"The result of a frame is known within the analyzer's deadline; given: frame "
                f"{self.number} and a timeout of {timeout} s. Wait longer, or look at done()."
            ) from None

    def _left_s(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self._deadline - time.monotonic()

    def _finish(
        self,
        status: Status,
        answer: Cells | Foreground | None = None,
        error: Exception | None = None,
        reason: str = "",
    ) -> FrameResult:
        """Make the result known and let go of the frame."""
        now = time.monotonic()
        result = FrameResult(
            number=self.number,
            status=status,
            metadata=self.metadata,
            stage=self.stage,
            cells=answer if isinstance(answer, Cells) else None,
            foreground=answer if isinstance(answer, Foreground) else None,
            frame=self._frame if self._keeps_frame else None,
            error=error,
            reason=reason or (str(error) if error is not None else ""),
            waited_s=(now if self._sent_at is None else self._sent_at) - self._submitted_at,
            total_s=now - self._submitted_at,
        )
        self._frame = None
        self._future.set_result(result)
        return result

    def _when_done(self, call: Callable[[], object]) -> None:
        """Call ``call`` once the result is known, in the thread that finds it: it must be short."""
        self._future.add_done_callback(lambda _: call())
