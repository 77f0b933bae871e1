"""Frames of a running acquisition go in, cells come out, and the acquisition never waits."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytoserve.acquisition.frame_queue import FrameQueue, WhenBusy
from cytoserve.acquisition.pipeline_call import BlockingClient, PipelineCall, SettingValue
from cytoserve.acquisition.results import MAX_UNREAD, Order, Results
from cytoserve.acquisition.stage import StageTransform
from cytoserve.acquisition.statistics import AnalyzerStatistics
from cytoserve.acquisition.tickets import FrameResult, Ticket
from cytoserve.client import Client
from cytoserve.errors import DeadlineExceeded, InvalidSetting
from cytoserve.settings import (
    DEFAULT_PIPELINE,
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    check_timeout,
)

DEFAULT_DEADLINE_S = 10.0
"""Default time from the submission of a frame until its answer, in seconds."""

WARM_UP_SHAPE = (1024, 1024)

_PROBE_SHAPE = (32, 32)
"""Shape of the frame that finds out whether the server is through with its queue."""

_LOG = logging.getLogger(__name__)


class FrameAnalyzer:
    """Analyses the frames of a running acquisition in threads of its own.

    :meth:`submit` returns at once, whether the server is fast, slow, stopped or gone, and does not
    raise: what became of a frame is told by its ticket, by the callback, and by :meth:`results`.
    After a restart of the server the same analyzer goes on. Threads may share it, and several
    analyzers may share a client. Close it after use, best by a ``with`` block.

    ::

        with FrameAnalyzer("localhost:8001", "yolo", callback=show) as analyzer:
            analyzer.warm_up()
            for frame in camera:
                analyzer.submit(frame)

    Args:
        client: the client, or the server's address for a client of its own, which :meth:`close`
            closes. It is not asked before the first frame, so a server may start later.
        pipeline: an instance or a semantic pipeline of ``contract.PIPELINES``.
        max_in_flight: maximum number of frames that the server has at a time.
        queue_size: maximum number of frames that wait besides those in flight. This and
            ``max_in_flight`` bound the memory for frames.
        when_busy: what happens to a frame that finds the queue full: ``drop_oldest`` keeps the
            newest frames, ``drop_newest`` the oldest, and ``wait`` blocks :meth:`submit` until
            there is room, at most until the frame's deadline. ``wait`` can hold the acquisition up.
        deadline: seconds from submission until the answer, time in the queue included. A frame
            without an answer by then is late, and its request is cancelled. The next frame is sent
            when the server is through with what it had begun of it.
        select: function from the metadata to whether the frame is analysed. It runs in the thread
            that submits; others are skipped.
        callback: called with every :class:`FrameResult` in a thread of its own, one after the
            other. If it blocks, analysis goes on and at most ``MAX_UNREAD`` results wait for it. If
            it raises, the error is logged and counted.
        copy: whether frames are copied in :meth:`submit`, because many cameras write the next
            frame into the same memory. False saves the time, if nobody writes to a frame before
            its result is known.
        keep_frames: whether results carry their frames, for a picture of both. Results that wait
            for a reader then keep that memory.
        settings: keyword arguments of ``Client.segment`` or ``Client.foreground``, such as
            ``score_threshold``, the same for all frames.

    Raises:
        InvalidSetting: a setting, the pipeline, or the address is invalid.
    """

    def __init__(
        self,
        client: BlockingClient | str = DEFAULT_URL,
        pipeline: str = DEFAULT_PIPELINE,
        *,
        max_in_flight: int = 1,
        queue_size: int = 1,
        when_busy: WhenBusy = "drop_oldest",
        deadline: float = DEFAULT_DEADLINE_S,
        select: Callable[[Any], bool] | None = None,
        callback: Callable[[FrameResult], object] | None = None,
        copy: bool = True,
        keep_frames: bool = False,
        **settings: SettingValue,
    ) -> None:
        _check_numbers(max_in_flight, queue_size, when_busy)
        self._deadline_s = check_timeout(deadline)
        self._own_client = Client(client) if isinstance(client, str) else None
        asked = self._own_client or client
        try:
            self._call = PipelineCall(asked, pipeline, settings)  # type: ignore[arg-type]  # no str
        except InvalidSetting:
            if self._own_client is not None:
                self._own_client.close()
            raise
        self._select = select
        self._copy = copy
        self._keep_frames = keep_frames
        self._queue = FrameQueue(queue_size, max_in_flight, when_busy)
        self._callback = callback
        self._callback_errors = 0
        self._unread = Results()
        self._probing = threading.Lock()
        self._probed_at = -math.inf  # when the last answered probe was sent
        # Daemons: a host that ends without close() must not hang.
        self._threads = [
            threading.Thread(target=self._work, name=f"cytoserve-frames-{index}", daemon=True)
            for index in range(max_in_flight)
        ]
        self._caller = threading.Thread(
            target=self._call_back, name="cytoserve-callback", daemon=True
        )
        if callback is not None:
            self._queue.add_reader(self._unread)
            self._caller.start()
        self._threads.append(
            threading.Thread(
                target=self._queue.watch_deadlines, name="cytoserve-deadlines", daemon=True
            )
        )
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        frame: NDArray[np.generic],
        metadata: Any = None,
        *,
        stage: StageTransform | None = None,
    ) -> Ticket:
        """Hand a frame over for analysis and return at once, unless ``when_busy`` is ``wait``.

        Args:
            frame: ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` (RGB) of uint8, uint16, or float
                within 0..1; see :mod:`cytoserve.frames`. Frames may differ in size. Any other
                frame fails, and the result says why.
            metadata: anything; it comes back with the result.
            stage: where the frame lies on the stage; it comes back with the result.

        Returns:
            the frame's ticket. After :meth:`close`, the ticket of a frame that failed.
        """
        ticket = Ticket(frame, metadata, stage, self._deadline_s, self._keep_frames)
        problem: Exception | None = None
        try:  # select and frame are the host's, and nothing may raise into its thread
            if self._select is not None and not self._select(metadata):
                self._queue.skip(ticket)
                return ticket
            self._call.check(frame)
            if self._copy:
                ticket._frame = frame.copy()
        except Exception as error:
            problem = _without_frames(error)
        self._queue.put(ticket, problem)
        return ticket

    def results(self, order: Order = "completion", max_unread: int = MAX_UNREAD) -> Results:
        """Return an iterator over the results of all frames submitted from now on.

        Call it before the acquisition starts. It ends after :meth:`close`.

        Args:
            order: ``completion``, as results become known, or ``arrival``, in the order of
                submission.
            max_unread: maximum number of results that wait for the reader; see
                :class:`cytoserve.acquisition.Results`.
        """
        reader = Results(order, max_unread)
        self._queue.add_reader(reader)
        return reader

    def warm_up(
        self,
        shape: tuple[int, ...] = WARM_UP_SHAPE,
        dtype: DTypeLike = np.uint16,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Send an empty frame and wait for the answer: first requests of a shape take longer.

        It counts nowhere. Call it before the acquisition, also to learn whether the server answers.

        Args:
            shape: shape of the frames to come.
            dtype: dtype of the frames to come.
            timeout: longest wait in seconds.

        Raises:
            CytoserveError: the server did not answer; see :mod:`cytoserve.errors`.
        """
        self._call(np.zeros(shape, dtype), check_timeout(timeout))

    def statistics(self) -> AnalyzerStatistics:
        """Return what was done until now."""
        return replace(
            self._queue.statistics(),
            callback_errors=self._callback_errors,
            unread=self._unread.missed,
        )

    def close(self, drain: bool = True) -> None:
        """Take no more frames. When this returns, the result of every frame is known.

        Args:
            drain: whether to wait for the frames that were submitted, at most until their
                deadlines, and as long again for the callback. If not, they are dropped. Requests
                in flight are then cancelled if the client is the analyzer's own; else the server
                answers them into the void.
        """
        self._queue.close(drain)
        if self._own_client is not None:
            self._own_client.close()  # cancels what is in flight
        if drain and self._caller.is_alive() and threading.current_thread() is not self._caller:
            self._caller.join(self._deadline_s)
            if self._caller.is_alive():
                _LOG.warning("The callback still runs. Results that wait for it come later.")

    def __enter__(self) -> FrameAnalyzer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(drain=kind is None)

    def _work(self) -> None:
        while (ticket := self._queue.take()) is not None:
            if not self._analyse(ticket):
                self._wait_for_server(time.monotonic())
            self._queue.free()

    def _analyse(self, ticket: Ticket) -> bool:
        """Send a frame; return False if there was no answer within its deadline."""
        frame = ticket._frame
        try:
            # Not below a millisecond: a deadline must be above 0.
            answer = self._call(frame, max(ticket._left_s(), 0.001))  # type: ignore[arg-type]
        except DeadlineExceeded as error:
            self._queue.finish(ticket, "late", error=_without_frames(error))
            return False
        except Exception as error:  # also a bug in here must not end the thread
            self._queue.finish(ticket, "failed", error=_without_frames(error))
        else:
            self._queue.finish(ticket, "answered", answer)
        return True

    def _wait_for_server(self, late_at: float) -> None:
        """Wait until the server is through with a request that was cancelled at ``late_at``.

        Triton 2.51 skips the steps of a cancelled request that are not queued yet, and executes the
        others. Sending the next frame at once would queue more and more work whose results nobody
        takes. So a frame of few pixels, which costs little, queues behind it first.
        """
        with self._probing:  # one answer is enough for all threads
            while self._probed_at < late_at and not self._queue.is_closed:
                begun = time.monotonic()
                try:
                    self._call(np.zeros(_PROBE_SHAPE, np.uint16), DEFAULT_TIMEOUT_S)
                except DeadlineExceeded:
                    continue
                except Exception:
                    return  # of a server that is gone and its queue with it; the next frame tells
                self._probed_at = begun

    def _call_back(self) -> None:
        assert self._callback is not None
        for result in self._unread:
            try:
                self._callback(result)
            except Exception:
                self._callback_errors += 1
                _LOG.exception("The callback raised for frame %d. Analysis goes on.", result.number)


def _check_numbers(max_in_flight: int, queue_size: int, when_busy: str) -> None:
    for name, value in (("max_in_flight", max_in_flight), ("queue_size", queue_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidSetting(
                f"{name} is a whole number from 1 on; given: {value!r}. The default is 1."
            )
    if when_busy not in get_args(WhenBusy):
        raise InvalidSetting(
            f"when_busy is one of: {', '.join(get_args(WhenBusy))}; given: {when_busy!r}. Choose "
            "one of them."
        )


def _without_frames(error: Exception) -> Exception:
    """Remove the tracebacks of an error and its causes, which would keep the frame in memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
