"""The analyzer for programs that run in an asyncio event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cytoserve.acquisition.analyzer import DEFAULT_DEADLINE_S, WARM_UP_SHAPE, FrameAnalyzer
from cytoserve.acquisition.frame_queue import WhenBusy
from cytoserve.acquisition.pipeline_call import BlockingClient, SettingValue
from cytoserve.acquisition.results import MAX_UNREAD, Order, Results
from cytoserve.acquisition.stage import StageTransform
from cytoserve.acquisition.statistics import AnalyzerStatistics
from cytoserve.acquisition.tickets import FrameResult, Ticket
from cytoserve.cells import Cells
from cytoserve.client import AsyncClient
from cytoserve.errors import DeadlineExceeded
from cytoserve.foreground import Foreground
from cytoserve.settings import DEFAULT_PIPELINE, DEFAULT_TIMEOUT_S, DEFAULT_URL

_T = TypeVar("_T")

_GRACE_S = 1.0
"""Seconds beyond a deadline after which an event loop that does not answer is given up."""


class AsyncFrameAnalyzer:
    """A :class:`FrameAnalyzer` for one event loop, with the same arguments, results and rules.

    The work is done in the threads of a :class:`FrameAnalyzer`, so encoding and decoding of frames
    do not hold the loop up. With an :class:`AsyncClient`, its part of the work is done in the loop.
    The callback may be a coroutine function; it runs in the loop. Make the analyzer inside of a
    coroutine.
    """

    def __init__(
        self,
        client: BlockingClient | AsyncClient | str = DEFAULT_URL,
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
        self._loop = asyncio.get_running_loop()
        self._blocks = when_busy == "wait"
        self._callback = callback
        self._analyzer = FrameAnalyzer(
            _InLoop(client, self._loop) if isinstance(client, AsyncClient) else client,
            pipeline,
            max_in_flight=max_in_flight,
            queue_size=queue_size,
            when_busy=when_busy,
            deadline=deadline,
            select=select,
            callback=None if callback is None else self._call_back,
            copy=copy,
            keep_frames=keep_frames,
            **settings,
        )

    async def submit(
        self,
        frame: NDArray[np.generic],
        metadata: Any = None,
        *,
        stage: StageTransform | None = None,
    ) -> AsyncTicket:
        """Hand a frame over for analysis; see :meth:`FrameAnalyzer.submit`.

        It suspends only if ``when_busy`` is ``wait``, and never blocks the loop. A task that is
        cancelled while it waits for room has submitted its frame all the same.
        """
        call = partial(self._analyzer.submit, frame, metadata, stage=stage)
        return AsyncTicket(await asyncio.to_thread(call) if self._blocks else call())

    def results(self, order: Order = "completion", max_unread: int = MAX_UNREAD) -> AsyncResults:
        """Return an async iterator over the results; see :meth:`FrameAnalyzer.results`."""
        return AsyncResults(self._analyzer.results(order, max_unread), self._loop)

    async def warm_up(
        self,
        shape: tuple[int, ...] = WARM_UP_SHAPE,
        dtype: DTypeLike = np.uint16,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Send an empty frame and wait for the answer; see :meth:`FrameAnalyzer.warm_up`."""
        await asyncio.to_thread(self._analyzer.warm_up, shape, dtype, timeout)

    def statistics(self) -> AnalyzerStatistics:
        """Return what was done until now."""
        return self._analyzer.statistics()

    async def close(self, drain: bool = True) -> None:
        """Take no more frames; see :meth:`FrameAnalyzer.close`."""
        await asyncio.to_thread(self._analyzer.close, drain)

    async def __aenter__(self) -> AsyncFrameAnalyzer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(drain=kind is None)

    def _call_back(self, result: FrameResult) -> None:
        """Run the callback in the loop and wait for its end; this is the analyzer's own thread."""

        async def call() -> None:
            assert self._callback is not None
            returned = self._callback(result)
            if inspect.isawaitable(returned):
                await returned

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()


class AsyncTicket:
    """The receipt for one submitted frame; see :class:`Ticket`.

    Attributes:
        number: position of the frame among all submitted frames, from 0 on.
        metadata: what was submitted with the frame.
    """

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self.number = ticket.number
        self.metadata = ticket.metadata

    def done(self) -> bool:
        """Whether the result is known."""
        return self._ticket.done()

    async def result(self, timeout: float | None = None) -> FrameResult:
        """Wait for the result; see :meth:`Ticket.result`.

        Raises:
            TimeoutError: the result is not known in time. The frame is still being analysed.
        """
        future = asyncio.wrap_future(self._ticket._future)
        await asyncio.wait([future], timeout=timeout)
        return self._ticket.result(0)


class AsyncResults(AsyncIterator[FrameResult]):
    """The results as an async iterator; see :class:`Results`."""

    def __init__(self, results: Results, loop: asyncio.AbstractEventLoop) -> None:
        self._results = results
        self._changed = asyncio.Event()
        results._tell = partial(_tell, loop, self._changed)

    @property
    def missed(self) -> int:
        """Number of results that were left out because the reader was too slow."""
        return self._results.missed

    async def __anext__(self) -> FrameResult:
        while True:
            self._changed.clear()
            if (result := self._results._next_known()) is not None:
                return result
            if self._results._ended_and_read():
                raise StopAsyncIteration
            await self._changed.wait()


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has ended, and its readers with it
        loop.call_soon_threadsafe(event.set)


class _InLoop:
    """An :class:`AsyncClient` for the analyzer's threads."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def segment(self, image: NDArray[np.generic], pipeline: str, **settings: Any) -> Cells:
        return self._wait(self._client.segment(image, pipeline, **settings), settings["timeout"])

    def foreground(self, image: NDArray[np.generic], pipeline: str, **settings: Any) -> Foreground:
        return self._wait(self._client.foreground(image, pipeline, **settings), settings["timeout"])

    def _wait(self, call: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result(timeout_s + _GRACE_S)
        except FutureTimeoutError as error:
            if not future.done():  # the loop is blocked or has ended
                future.cancel()
                raise DeadlineExceeded(
                    f"The event loop of an AsyncClient runs until its calls are answered; given: "
                    f"no answer in {timeout_s:.3g} s. Do not block the loop."
                ) from error
            raise
