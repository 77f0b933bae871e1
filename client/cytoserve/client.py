"""The client: asks a server for the cells or foreground of a frame, or for prompted cells.

The logic of a call is written once, as coroutines over a transport. :class:`AsyncClient` awaits
them. :class:`Client` runs them over a blocking transport, which never suspends them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cytoserve import contract
from cytoserve.access import Access
from cytoserve.appearance import frame_appearance
from cytoserve.cells import Cells
from cytoserve.codec import cards, foregrounds, instances, prompted
from cytoserve.codec.cards import ModelCard
from cytoserve.doubts import find_doubts
from cytoserve.errors import (
    DeadlineExceeded,
    PipelineNotServed,
    ServerError,
    ServerUnreachable,
)
from cytoserve.foreground import Foreground
from cytoserve.frame_parts import Stitching, cell_windows, frame_limits, join_windows, windows
from cytoserve.frames import check_frame, check_values
from cytoserve.operating_point import OperatingPoint, operating_point
from cytoserve.prompts import Prompts
from cytoserve.settings import (
    DEFAULT_FOREGROUND_PIPELINE,
    DEFAULT_PIPELINE,
    DEFAULT_PROMPT_PIPELINE,
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    ForegroundSettings,
    Settings,
    check_timeout,
    check_version,
    find_instance_pipeline,
    find_pipeline,
    find_prompted_pipeline,
    find_semantic_pipeline,
)
from cytoserve.transport import Request, ServerInfo, Tensors, Transport, VersionTransport

MAX_TRIES = 3
"""Maximum number of tries per call if no server answers, all within the call's deadline."""

FIRST_PAUSE_S = 0.2
"""Mean pause before the second try, in seconds. It doubles with every further try."""

CARD_LIFETIME_S = 60.0
"""Seconds until a cached model card is refreshed, so new class names are seen within this time."""

_T = TypeVar("_T")


class Client:
    """A blocking client; threads may share one.

    Args:
        url: ``host:port`` of the server's gRPC endpoint, or ``grpcs://host:port`` for TLS.
        timeout: default deadline per call in seconds, retries included.
        ca: PEM file with the certificates that may vouch for the server; None trusts those that
            gRPC brings along.
        cert: PEM file of the client's own certificate, for a server that asks for one.
        key: PEM file of its private key.
        api_key: the key that the server was started with.
        version: version of the pipelines that calls ask for unless they name another; None asks
            the newest.
        transport: replaces the connection to ``url``, for example with a
            :class:`cytoserve.FakeServer`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        api_key: str | None = None,
        version: int | None = None,
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            from cytoserve.grpc_transport import GrpcTransport  # slow to import

            transport = GrpcTransport(url, Access(ca, cert, key, api_key))
        self._calls = _Calls(transport, timeout, version)

    def segment(
        self,
        image: NDArray[np.generic],
        pipeline: str = DEFAULT_PIPELINE,
        *,
        score_threshold: float | None = None,
        overlap_threshold: float = contract.OVERLAP_THRESHOLD,
        max_cells: int = contract.DEFAULT_MAX_CELLS,
        scale: float | Literal["fit"] | None = None,
        pixel_size_um: float | None = None,
        cell_diameter_px: float | None = None,
        labels: bool = False,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Cells:
        """Find the cells in one frame of any size, at the scale on which the network was trained.

        By default the frame is assumed to have the scale of the training frames; if it differs, set
        one of ``scale``, ``pixel_size_um`` and ``cell_diameter_px``. The server tiles a frame that
        is larger than the network's field. A frame too large for one request is sent in windows;
        the deadline then covers the whole call. See :mod:`cytoserve.frame_parts`.

        The first call to a pipeline sends two requests: one for the model card, which is cached for
        ``CARD_LIFETIME_S`` seconds, then the frame.

        ``Cells.warnings`` tells when the answer looks as if the model did not suit the frame.

        Args:
            image: ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` (RGB) of uint8, uint16, or float
                within 0..1; see :mod:`cytoserve.frames`.
            pipeline: an instance pipeline of ``contract.PIPELINES``: one that needs no prompts.
            score_threshold: detections with a lower score are dropped; 0..1. None uses the
                threshold chosen in the model's training.
            overlap_threshold: if two cells overlap by more than this share of the smaller one's
                mask, only one is kept; 0..1.
            max_cells: maximum number of cells in the answer; ``Cells.capped`` tells whether more
                were found.
            scale: factor that scales the frame to match the training frames, such as 2 for cells
                of half the size. ``"fit"`` scales the whole frame into one tile, which is fast and
                suits a few large cells.
            pixel_size_um: side of a frame pixel in micrometres, for models that know their own.
            cell_diameter_px: typical diameter of the cells in frame pixels.
            labels: whether the server also paints the label image, returned as ``Cells.labels``.
            version: version of the pipeline, for a server that offers several; None uses the
                client's.
            timeout: deadline of this call in seconds; None uses the client's.

        Raises:
            InvalidRequest: the image or a setting is invalid; the frame was not sent.
            ServerUnreachable, DeadlineExceeded, ServerError: see :mod:`cytoserve.errors`.
        """
        settings = Settings(
            score_threshold, overlap_threshold, max_cells, scale, pixel_size_um, cell_diameter_px
        )
        return _finish(self._calls.of(version).segment(image, pipeline, settings, labels, timeout))

    def foreground(
        self,
        image: NDArray[np.generic],
        pipeline: str = DEFAULT_FOREGROUND_PIPELINE,
        *,
        probability_threshold: float | None = None,
        white_level: float | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Foreground:
        """Find the foreground of one frame, and object centres if the pipeline detects them.

        The tiled pipeline, ``nuclei_unet``, accepts frames up to ``frame_parts.MAX_STITCHED_SIDE``
        px per side, also as ``numpy.memmap``. A frame too large for one request is sent in windows
        and stitched, with the same result; see :mod:`cytoserve.frame_parts`. The deadline covers
        the whole call, so allow more time for such a frame. All values of a float frame are checked
        before the first window is sent.

        Args:
            image: ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` (RGB) of uint8, uint16, or float
                within 0..1; see :mod:`cytoserve.frames`.
            pipeline: a semantic pipeline of ``contract.PIPELINES``.
            probability_threshold: pixels of at least this probability are foreground; 0..1. None
                uses the threshold chosen in the model's training.
            white_level: the value of ``image`` that is white. None uses 255 for uint8, 65535 for
                uint16 and 1.0 for float. Set 4095 for a 12-bit camera. Only for pipelines with
                ``contract.WHITE_LEVEL_INPUT``.
            version: version of the pipeline, for a server that offers several; None uses the
                client's.
            timeout: deadline of this call in seconds; None uses the client's.

        Raises:
            InvalidRequest: the image or a setting is invalid; the frame was not sent.
            ServerUnreachable, DeadlineExceeded, ServerError: see :mod:`cytoserve.errors`. If one
                window of a frame fails, nothing is returned.
        """
        settings = ForegroundSettings(probability_threshold, white_level)
        return _finish(self._calls.of(version).foreground(image, pipeline, settings, timeout))

    def prompt(
        self,
        image: NDArray[np.generic],
        prompts: Prompts,
        pipeline: str = DEFAULT_PROMPT_PIPELINE,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Cells:
        """Segment one cell per prompt.

        The server caches SAM's embedding of a frame for some time, so further prompts on the same
        frame cost little. Still, pass all known prompts in one call.

        Args:
            image: ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` (RGB) of uint8, uint16, or float
                within 0..1; see :mod:`cytoserve.frames`.
            prompts: N boxes, points or coarse masks, in pixels of ``image``.
            pipeline: a prompted pipeline of ``contract.PIPELINES``.
            version: version of the pipeline, for a server that offers several; None uses the
                client's.
            timeout: deadline of this call in seconds; None uses the client's.

        Returns:
            N cells **in the order of the prompts**, all of one class. Their scores are the
            qualities that SAM predicts for its masks: the IoU with the cell. The patch is empty if
            no pixel was found. If two prompts claim a pixel of the label image, the earlier keeps
            it.

        Raises:
            InvalidRequest: the image or a prompt is invalid; the frame was not sent.
            ServerUnreachable, DeadlineExceeded, ServerError: see :mod:`cytoserve.errors`.
        """
        return _finish(self._calls.of(version).prompt(image, prompts, pipeline, timeout))

    def card(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> ModelCard:
        """Return the model card of a pipeline, at most ``CARD_LIFETIME_S`` seconds old."""
        return _finish(self._calls.of(version).card(pipeline, timeout))

    def models(
        self, pipeline: str = DEFAULT_PIPELINE, *, timeout: float | None = None
    ) -> dict[str, str]:
        """Return which models answer; different models give different results.

        The information is at most ``CARD_LIFETIME_S`` seconds old.

        Returns:
            Name of every served step -> sha256 of its graph. If a variant or a configuration says
            so, the hash is followed by what the server runs instead, or on which accelerator.
        """
        return _finish(self._calls.of(None).models(pipeline, timeout))

    def pipelines(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of the contract's pipelines that the server serves now."""
        return _finish(self._calls.of(None).pipelines(timeout))

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Return the server's name and version."""
        return _finish(self._calls.server_info(timeout))

    def close(self) -> None:
        """Close the connection."""
        _finish(self._calls.transport.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A client for one asyncio event loop, with the arguments and errors of :class:`Client`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        api_key: str | None = None,
        version: int | None = None,
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            from cytoserve.grpc_transport import AioTransport  # slow to import

            transport = AioTransport(url, Access(ca, cert, key, api_key))
        self._calls = _Calls(transport, timeout, version)

    async def segment(
        self,
        image: NDArray[np.generic],
        pipeline: str = DEFAULT_PIPELINE,
        *,
        score_threshold: float | None = None,
        overlap_threshold: float = contract.OVERLAP_THRESHOLD,
        max_cells: int = contract.DEFAULT_MAX_CELLS,
        scale: float | Literal["fit"] | None = None,
        pixel_size_um: float | None = None,
        cell_diameter_px: float | None = None,
        labels: bool = False,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Cells:
        """Find the cells in one frame; see :meth:`Client.segment`."""
        settings = Settings(
            score_threshold, overlap_threshold, max_cells, scale, pixel_size_um, cell_diameter_px
        )
        return await self._calls.of(version).segment(image, pipeline, settings, labels, timeout)

    async def foreground(
        self,
        image: NDArray[np.generic],
        pipeline: str = DEFAULT_FOREGROUND_PIPELINE,
        *,
        probability_threshold: float | None = None,
        white_level: float | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Foreground:
        """Find the foreground of one frame; see :meth:`Client.foreground`."""
        settings = ForegroundSettings(probability_threshold, white_level)
        return await self._calls.of(version).foreground(image, pipeline, settings, timeout)

    async def prompt(
        self,
        image: NDArray[np.generic],
        prompts: Prompts,
        pipeline: str = DEFAULT_PROMPT_PIPELINE,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Cells:
        """Segment one cell per prompt; see :meth:`Client.prompt`."""
        return await self._calls.of(version).prompt(image, prompts, pipeline, timeout)

    async def card(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> ModelCard:
        """Return the model card of a pipeline, at most ``CARD_LIFETIME_S`` seconds old."""
        return await self._calls.of(version).card(pipeline, timeout)

    async def models(
        self, pipeline: str = DEFAULT_PIPELINE, *, timeout: float | None = None
    ) -> dict[str, str]:
        """Return which models answer; see :meth:`Client.models`."""
        return await self._calls.of(None).models(pipeline, timeout)

    async def pipelines(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the names of the contract's pipelines that the server serves now."""
        return await self._calls.of(None).pipelines(timeout)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Return the server's name and version."""
        return await self._calls.server_info(timeout)

    async def close(self) -> None:
        """Close the connection."""
        await self._calls.transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Calls:
    """The logic that both clients share."""

    def __init__(self, transport: Transport, timeout: float, version: int | None = None) -> None:
        self.transport = transport
        self._version = version if version is None else check_version(version)
        self._timeout = check_timeout(timeout)
        self._cards: dict[str, tuple[ModelCard, float]] = {}
        self._models: dict[str, tuple[ModelCard, dict[str, str]]] = {}
        self._versions: dict[int, _Calls] = {}

    def of(self, version: int | None) -> _Calls:
        """Return the calls to one version of the pipelines; None means the client's."""
        if version is None:
            version = self._version
        if version is None:
            return self
        if version not in self._versions:
            transport = VersionTransport(self.transport, check_version(version))
            self._versions[version] = _Calls(transport, self._timeout)
        return self._versions[version]

    async def segment(
        self,
        image: NDArray[np.generic],
        name: str,
        settings: Settings,
        labels: bool,
        timeout: float | None,
    ) -> Cells:
        deadline = self._deadline(name, timeout)
        pipeline = find_instance_pipeline(name)
        frame_shape = check_frame(image, frame_limits(pipeline))
        check_values(image)
        card = await self._card(name, deadline)
        point = operating_point(settings, card, frame_shape, pipeline)
        parts = cell_windows(frame_shape, pipeline, point)
        if len(parts) == 1:
            request = instances.encode_request(image, pipeline, point, labels)
            cells = await self._cells(request, point, card, deadline)
            return replace(cells, doubts=find_doubts(cells, frame_appearance(image), card))
        # All windows use the numbers of one card, so the card must be that of the current models.
        card = await self._card(name, deadline, anew=True)
        point = operating_point(settings, card, frame_shape, pipeline)
        parts = cell_windows(frame_shape, pipeline, point)
        answers = []
        for part in parts:
            window = image[part.rows, part.columns]
            request = instances.encode_request(window, pipeline, point)
            request = replace(request, origin=(part.rows.start, part.columns.start))
            answers.append(await self._cells(request, point, card, deadline))
        await self._see_same_models(name, card, deadline)
        cells = join_windows(parts, answers, frame_shape, point)
        painted = cells.label_image() if labels else None
        doubts = find_doubts(cells, frame_appearance(image), card)
        return replace(cells, labels=painted, doubts=doubts)

    async def _cells(
        self,
        request: Request,
        point: OperatingPoint,
        card: ModelCard,
        deadline: _Deadline,
    ) -> Cells:
        """Request the cells of one frame, or of one window of a larger frame."""
        answer = await self._infer(request.model, request, deadline)
        if instances.class_count(answer) != len(card.class_names):  # exported again since
            card = await self._card(request.model, deadline, anew=True)
        return instances.decode_answer(answer, request, card.class_names, point)

    async def _see_same_models(self, name: str, before: ModelCard, deadline: _Deadline) -> None:
        """Check that the models of ``before`` answered all windows of a frame."""
        after = await self._card(name, deadline, anew=True)
        if before.models != after.models:
            raise ServerError(
                f"All windows of a frame must be answered by the same models; given: {name} was "
                "exported anew in between. Ask again."
            )

    async def foreground(
        self,
        image: NDArray[np.generic],
        name: str,
        settings: ForegroundSettings,
        timeout: float | None,
    ) -> Foreground:
        deadline = self._deadline(name, timeout)
        pipeline = find_semantic_pipeline(name)
        settings.check_for(pipeline)
        frame_shape = check_frame(image, frame_limits(pipeline))
        check_values(image)  # in all windows, before anything is sent
        parts = windows(frame_shape, pipeline)
        card = await self._card(name, deadline, anew=len(parts) > 1)
        settings = settings.with_threshold_of(card.threshold)
        if len(parts) == 1:
            request = foregrounds.encode_request(image, pipeline, settings)
            return await self._foreground(request, settings, card, deadline)
        stitching = Stitching(frame_shape)
        for window in parts:
            part = image[window.rows, window.columns]
            origin = window.rows.start, window.columns.start
            request = replace(foregrounds.encode_request(part, pipeline, settings), origin=origin)
            stitching.put(window, await self._foreground(request, settings, card, deadline))
        await self._see_same_models(name, card, deadline)
        return stitching.whole()

    async def _foreground(
        self,
        request: Request,
        settings: ForegroundSettings,
        card: ModelCard,
        deadline: _Deadline,
    ) -> Foreground:
        """Request the foreground of one frame, or of one window of a larger frame."""
        answer = await self._infer(request.model, request, deadline)
        return foregrounds.decode_answer(
            answer, request, card.class_names[0], settings.known_threshold
        )

    async def prompt(
        self,
        image: NDArray[np.generic],
        prompts: Prompts,
        pipeline: str,
        timeout: float | None,
    ) -> Cells:
        deadline = self._deadline(pipeline, timeout)
        request = prompted.encode_request(image, find_prompted_pipeline(pipeline), prompts)
        card = await self._card(pipeline, deadline)
        answer = await self._infer(pipeline, request, deadline)
        return prompted.decode_answer(answer, request, card.class_names)

    async def card(self, pipeline: str, timeout: float | None) -> ModelCard:
        return await self._card(pipeline, self._deadline(pipeline, timeout))

    async def models(self, pipeline: str, timeout: float | None) -> dict[str, str]:
        deadline = self._deadline(pipeline, timeout)
        card = await self._card(pipeline, deadline)
        known, models = self._models.get(pipeline, (None, {}))
        if known is not card:  # refreshed since
            models = {}
            for name, sha256 in card.hashes().items():
                ask = partial(self.transport.execution, name)
                try:
                    models[name] = f"{sha256} {await self._with_retries(ask, deadline)}".rstrip()
                except PipelineNotServed:  # a step of another variant
                    continue
            self._models[pipeline] = card, models
        return dict(models)

    async def pipelines(self, timeout: float | None) -> tuple[str, ...]:
        return await self._ready_pipelines(self._deadline("the server", timeout))

    async def server_info(self, timeout: float | None) -> ServerInfo:
        return await self._with_retries(
            self.transport.server_info, self._deadline("the server", timeout)
        )

    async def _card(self, name: str, deadline: _Deadline, anew: bool = False) -> ModelCard:
        pipeline = find_pipeline(name)
        card, best_before = self._cards.get(name, (None, 0.0))
        if card is None or anew or time.monotonic() > best_before:
            answer = await self._infer(name, cards.encode_request(pipeline), deadline)
            card = cards.decode_answer(answer, pipeline)
            self._cards[name] = card, time.monotonic() + CARD_LIFETIME_S
        return card

    async def _infer(self, pipeline: str, request: Request, deadline: _Deadline) -> Tensors:
        """Query a pipeline or its card; if it is not served, raise an error that lists what is."""
        try:
            return await self._with_retries(partial(self.transport.infer, request), deadline)
        except PipelineNotServed as error:
            served = await self._ready_pipelines(deadline)
            if pipeline == error.pipeline or pipeline not in served:
                raise PipelineNotServed(pipeline, served) from error
            raise ServerError(
                f"{pipeline} must be served with all its models; given: none called "
                f"{error.pipeline}. Export it again with `python -m export {pipeline}`."
            ) from error

    async def _ready_pipelines(self, deadline: _Deadline) -> tuple[str, ...]:
        served = []
        for name in contract.PIPELINES:
            if await self._with_retries(partial(self.transport.is_ready, name), deadline):
                served.append(name)
        return tuple(served)

    async def _with_retries(
        self, call: Callable[[float], Awaitable[_T]], deadline: _Deadline
    ) -> _T:
        """Retry a call while no server answers: safe, because an inference changes nothing."""
        for tried in range(1, MAX_TRIES + 1):
            try:
                return await call(deadline.left())
            except DeadlineExceeded as error:  # the transport knows only the time left
                raise deadline.exceeded(f" {error}") from error
            except ServerUnreachable:
                pause = FIRST_PAUSE_S * 2 ** (tried - 1) * random.uniform(0.5, 1.5)  # noqa: S311
                if tried == MAX_TRIES or pause >= deadline.left():
                    raise
            await self.transport.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _deadline(self, what: str, timeout: float | None) -> _Deadline:
        return _Deadline(what, self._timeout if timeout is None else check_timeout(timeout))


class _Deadline:
    """The time left for one call and its retries."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left, more than 0.

        Raises:
            DeadlineExceeded: no time is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self, more: str = "") -> DeadlineExceeded:
        """Return the error, which names the caller's deadline and ends with ``more``."""
        return DeadlineExceeded(
            f"An answer comes within the deadline; given: {self._seconds:.3g} s for {self._what}. "
            f"Allow more time (timeout=…, --timeout).{more}"
        )


def _finish(call: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends because its transport blocks."""
    try:
        call.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    call.close()
    raise TypeError("Client needs a transport that blocks; use AsyncClient with this one.")
