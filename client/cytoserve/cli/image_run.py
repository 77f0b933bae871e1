"""One run over many images: read, segment, save, record. A bad image does not stop the run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.cli.doctor import run_self_test
from cytoserve.cli.inputs import Input
from cytoserve.cli.run_record import DONE, FAILED, NOT_DONE, SKIPPED, Entry, RunRecord
from cytoserve.client import Client
from cytoserve.contract import PIPELINES
from cytoserve.errors import (
    AccessDenied,
    CytoserveError,
    DeadlineExceeded,
    ServerError,
    ServerUnreachable,
)
from cytoserve.files import (
    array_sha256,
    file_sha256,
    write_atomically,
    write_folder_atomically,
)
from cytoserve.foreground import Foreground
from cytoserve.frame_parts import frame_limits
from cytoserve.frames import FrameLimits
from cytoserve.image_files import open_image
from cytoserve.outputs import (
    CELLS_OUTPUTS,
    FOREGROUND_OUTPUTS,
    OVERLAY,
    encode_output,
    outputs,
)
from cytoserve.outputs.source import Source
from cytoserve.planes import DEFAULT_PLANES, MAXIMUM, Plane, PlaneChoice, plane_at
from cytoserve.positions import OpenImage, Place
from cytoserve.settings import ForegroundSettings, Settings

PAUSE_S = 1.0
"""Pause between two checks of a server that stopped answering, in seconds."""

_T = TypeVar("_T")

Tell = Callable[[str], None]

Show = Callable[[Input, NDArray[Any], Cells | Foreground], None]
"""Function that is given an image, its frame, and what was found in it."""


class ServerStopped(CytoserveError):
    """The server stopped answering during a run and did not come back in time."""


@dataclass(frozen=True)
class Job:
    """The work to do on every image of a run.

    Attributes:
        pipeline, settings: as for :meth:`cytoserve.Client.segment`, or for
            :meth:`cytoserve.Client.foreground` if the pipeline is semantic.
        save: keys of :func:`cytoserve.outputs.outputs`.
        numbers: whether overlays carry the numbers of the cells or components.
        pixel_size_um: side of an image's pixel in um, for tables, metadata and scale bars;
            None uses the pixel size in each file.
        out: folder for the results.
        timeout: deadline per image in seconds.
        wait_for_server: how long to wait for a server that stopped answering, in seconds; infinity
            waits without limit.
        planes: which planes of a file to do.
    """

    pipeline: str
    settings: Settings | ForegroundSettings
    save: tuple[str, ...]
    numbers: bool
    pixel_size_um: float | None
    out: Path
    timeout: float
    wait_for_server: float
    planes: PlaneChoice = DEFAULT_PLANES

    @property
    def limits(self) -> FrameLimits:
        """How large a frame may be."""
        return frame_limits(PIPELINES[self.pipeline])

    @property
    def waiting(self) -> str:
        """The first words of a message that the server is waited for."""
        if math.isinf(self.wait_for_server):
            return "waiting"
        return f"waiting up to {self.wait_for_server:g} s"


def write_results(
    out: Path,
    given: Input,
    kinds: Sequence[str],
    frame: NDArray[Any],
    result: Cells | Foreground,
    numbers: bool,
    pixel_size_um: float | None,
) -> list[str]:
    """Write every kind of result of one image below ``out``; return their paths below it."""
    offered = CELLS_OUTPUTS if isinstance(result, Cells) else FOREGROUND_OUTPUTS
    source = Source(given.file_key, given.label, pixel_size_um=pixel_size_um)
    written = []
    for kind in kinds:
        content = encode_output(kind, frame, result, source, numbers)
        written.append(given.output(offered[kind].ending))
        if isinstance(content, bytes):
            write_atomically(out / written[-1], content)
        else:
            write_folder_atomically(out / written[-1], content)
    return written


@dataclass
class ImageRun:
    """A run of one job; call :meth:`process` for every image.

    Attributes:
        models: the models that answer, from `Client.models`.
        pause: sleeps for some seconds. What it raises ends the wait for a server.
        show: is given every image that is done; its errors are told, and do not stop the run.
        stopped: why requests to the server have stopped; empty while they continue.
    """

    job: Job
    client: Client
    record: RunRecord
    models: Mapping[str, str]
    tell: Tell
    pause: Callable[[float], None] = time.sleep
    show: Show | None = None
    stopped: str = field(default="", init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def process(self, given: Input) -> Iterator[Input]:
        """Process and record the planes of one file, and yield each when it is recorded.

        A file of one plane, or one that cannot be opened, is yielded itself.
        """
        with ExitStack() as opened:
            try:
                image = opened.enter_context(open_image(given.path, self.job.limits))
                places = self.job.planes.places(image)
            except (CytoserveError, OSError) as error:
                yield self._refused(given, error)
                return
            self._tell_choice(given, image)
            if image.planes > 1:
                self.record.files.pop(given.key, None)  # of a time when it was one plane, or none
            for place in places:
                yield self._process(given.plane(image.label(place), place), image)

    def _process(self, given: Input, image: OpenImage) -> Input:
        entry = self._start(given, image)
        known = self.record.files.get(given.key, {})
        place = given.place or Place()
        try:
            plane: Plane | None = None
            began = time.perf_counter()
            if image.planes == 1 and image.is_one_file:
                entry["sha256"] = file_sha256(given.path)
            elif not self.stopped or known.get("status") in (DONE, SKIPPED):
                # The file may be huge, and may grow: each plane stands for itself.
                plane = plane_at(image, place, self.job.limits)
                entry["sha256"] = array_sha256(plane.frame)
            if self._is_up_to_date(given, entry, known):
                entry = {**known, "status": SKIPPED}
            elif self.stopped:
                entry |= {"status": NOT_DONE, "error": self.stopped}
            else:
                if plane is None:
                    began = time.perf_counter()
                    plane = plane_at(image, place, self.job.limits)
                if image.planes == 1:
                    image.close()  # Windows refuses to move an open file
                entry |= {"status": DONE, **self._done(given, plane, began)}
        except ServerStopped as error:
            self.stopped = str(error)
            entry |= {"status": NOT_DONE, "error": self.stopped}
            self.tell(self.stopped)
        except (CytoserveError, OSError) as error:
            entry |= self._failure(given, error)
        self.record.put(given.key, entry)
        return given

    def _refused(self, given: Input, error: Exception) -> Input:
        """Record a file that cannot be opened."""
        entry: Entry = {"source": str(given.path), "job": self._asked()}
        with suppress(OSError):
            entry["sha256"] = file_sha256(given.path)
        self.record.put(given.key, entry | self._failure(given, error))
        return given

    def _failure(self, given: Input, error: Exception) -> Entry:
        self.tell(f"failed: {given.key}: {error}")
        return {"status": FAILED, "error": f"{type(error).__name__}: {error}"}

    def _start(self, given: Input, image: OpenImage) -> Entry:
        entry: Entry = {"source": str(given.path), "job": self._asked()}
        if given.place is None or image.planes == 1:
            return entry
        place, position = given.place, image.positions[given.place.position]
        return entry | {
            "plane": {
                "position": place.position,
                "position_name": position.name,
                "time": place.time,
                "z": MAXIMUM if place.z is None else place.z,
                "channel": place.channel,
                "channel_name": position.channels[place.channel],
            }
        }

    def _tell_choice(self, given: Input, image: OpenImage) -> None:
        """Tell what the defaults take of a file, once for all files that are alike."""
        words = self.job.planes.told(image)
        if words and words not in self._told:
            self._told.add(words)
            self.tell(f"{given.key}: {words}")

    def leave(self, given: Input, reason: str) -> None:
        """Record that an image is not done, and why."""
        entry = {"source": str(given.path), "job": self._asked()}
        self.record.put(given.key, entry | {"status": NOT_DONE, "error": reason})

    def _done(self, given: Input, plane: Plane, began: float) -> Entry:
        """Segment and save one plane, read since ``began``; return the facts to record."""
        clock = [began, time.perf_counter()]
        frame = plane.frame
        pixel_size_um = self.job.pixel_size_um
        if pixel_size_um is None:
            pixel_size_um = plane.pixel_size_um
        settings = self._patiently(lambda: self._settings(pixel_size_um))
        found = self._patiently(lambda: self._segment(frame, settings))
        clock.append(time.perf_counter())
        written = write_results(
            self.job.out, given, self.job.save, frame, found, self.job.numbers, pixel_size_um
        )
        clock.append(time.perf_counter())
        self._show(given, frame, found)
        steps = zip(("read", "segment", "save"), clock, clock[1:], strict=False)
        size = {} if pixel_size_um is None else {"pixel_size_um": pixel_size_um}
        return {
            "image": {"height": frame.shape[0], "width": frame.shape[1], **size},
            "models": dict(self.models),
            "outputs": written,
            **_counts(found),
            **_operating_point(found, settings),
            "seconds": {name: round(end - start, 4) for name, start, end in steps},
        }

    def _show(self, given: Input, frame: NDArray[Any], found: Cells | Foreground) -> None:
        if self.show is None:
            return
        try:
            self.show(given, frame, found)
        except Exception as error:  # the results are kept, whatever becomes of their picture
            self.tell(f"{given.key} could not be shown: {error!r}")

    def best_score(self, inputs: Sequence[Input]) -> float | None:
        """Return the highest score of any cell in some images, whatever the threshold.

        It tells how far above everything a threshold was. None if there is nothing to tell: the
        images have their answers, so an image that cannot be asked again is no failure.
        """
        scores: list[float] = []
        for given in inputs:
            try:
                with open_image(given.path, self.job.limits) as image:
                    plane = plane_at(image, given.place or Place(), self.job.limits)
                settings = self._settings(self.job.pixel_size_um or plane.pixel_size_um)
                if isinstance(settings, Settings):
                    settings = replace(settings, score_threshold=0.0, max_cells=1)
                found = self._segment(plane.frame, settings)
            except (CytoserveError, OSError):
                continue
            scores += found.scores.tolist() if isinstance(found, Cells) else []
        return max(scores, default=None)

    def _settings(self, pixel_size_um: float | None) -> Settings | ForegroundSettings:
        """Return the job's settings; if they give no scale, add the pixel size in the file.

        A pixel size helps only with a model that knows its own.
        """
        job = self.job
        if not isinstance(job.settings, Settings) or job.settings.tells_scale:
            return job.settings
        card = self.client.card(job.pipeline, timeout=job.timeout)
        if card.scale is None or card.scale.pixel_size_um is None:
            return job.settings
        return replace(job.settings, pixel_size_um=pixel_size_um)

    def _segment(
        self, frame: NDArray[Any], settings: Settings | ForegroundSettings
    ) -> Cells | Foreground:
        job = self.job
        found: Cells | Foreground
        if isinstance(settings, Settings):
            found = self.client.segment(
                frame, job.pipeline, **asdict(settings), timeout=job.timeout
            )
        else:
            found = self.client.foreground(
                frame, job.pipeline, **asdict(settings), timeout=job.timeout
            )
        self.models = self.client.models(job.pipeline, timeout=job.timeout)
        return found

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Send a request; if the server fails, wait until it passes its self-test and retry.

        A faulty image therefore costs two requests, and a server restart loses no image.
        """
        try:
            return ask()
        except AccessDenied:
            raise
        except (ServerUnreachable, DeadlineExceeded, ServerError) as error:
            self._await_server(error)
        return ask()

    def _await_server(self, reason: CytoserveError) -> None:
        end = time.monotonic() + self.job.wait_for_server
        told = False
        while True:
            left = max(end - time.monotonic(), PAUSE_S)
            try:
                run_self_test(self.client, self.job.pipeline, min(left, self.job.timeout))
            except (ServerUnreachable, DeadlineExceeded, ServerError) as error:
                if time.monotonic() >= end:
                    raise ServerStopped(
                        f"The server stopped answering and did not come back within "
                        f"{self.job.wait_for_server:g} s: {error} Run the same command again when "
                        "it is back: what is done is kept."
                    ) from error
            else:
                return
            if not told:
                self.tell(f"{self.job.waiting} for the server: {reason}")
                told = True
            self.pause(min(PAUSE_S, max(0.0, end - time.monotonic())))

    def _asked(self) -> Entry:
        job = self.job
        asked = {"pipeline": job.pipeline, **asdict(job.settings)}
        asked["pixel_size_um"] = job.pixel_size_um
        if OVERLAY in job.save:
            asked["numbers"] = job.numbers
        return asked

    def _is_up_to_date(self, given: Input, entry: Entry, known: Entry) -> bool:
        offered = outputs(PIPELINES[self.job.pipeline])
        wanted = [given.output(offered[kind].ending) for kind in self.job.save]
        return (
            known.get("status") in (DONE, SKIPPED)
            and known.get("sha256") == entry["sha256"]
            # The earlier job may also contain the options of an overlay.
            and entry["job"].items() <= known.get("job", {}).items()
            and known.get("models") == dict(self.models)
            and set(wanted) <= set(known.get("outputs", ()))
            and all((self.job.out / name).exists() for name in wanted)
        )


def _counts(found: Cells | Foreground) -> Entry:
    """Return what ``run.json`` records about a result."""
    if isinstance(found, Foreground):
        return {"class": found.class_name, **found.summary()}
    return {
        "cells": len(found),
        "classes": found.counts(),
        "found": found.found,
        "capped": found.capped,
        "warnings": {doubt.kind: f"{doubt.seen} {doubt.command_remedy}" for doubt in found.doubts},
    }


def _operating_point(found: Cells | Foreground, settings: Settings | ForegroundSettings) -> Entry:
    """Return the threshold and scale of a result, for ``run.json``."""
    if not isinstance(found, Cells):
        return {"probability_threshold": found.threshold}
    point: Entry = {"score_threshold": found.score_threshold, "scale": found.scale}
    if isinstance(settings, Settings) and settings.pixel_size_um is not None:
        point["pixel_size_um"] = settings.pixel_size_um
    return point
