"""The contenders of the comparison, and how to start each with a given number of clients.

A contender is opened with a `Setting` and yields its clients. One thread at a time uses a client.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.approaches.__main__ import PIPELINES
from benchmarks.peers.programs import Program, environment_of, programs
from benchmarks.peers.raw_network import RAW_NETWORK
from benchmarks.peers.result import OURS, served_name
from benchmarks.peers.study import CHECKPOINTS_VARIABLE
from benchmarks.peers.wire import READY, Found
from cytoserve import Client
from cytoserve.contract import SCORE_THRESHOLD
from export.parity.instances import UNMATCHED
from server.variants import DEFAULT

START_TIMEOUT_S = 300.0
"""Maximum seconds until a peer's server is ready."""

ANSWER_TIMEOUT = 300.0
"""Maximum seconds until it answers."""

POLL_S = 0.2
"""Seconds between two checks whether it is ready."""

VARIANT_UNMATCHED = 0.05
"""Replaces `UNMATCHED` for arithmetic in 8 bits or bfloat16. There, more of the doubtful cells get
another of several overlapping boxes. `benchmarks.variants` measures and bounds the loss of accuracy
on annotated frames."""

BOUNDARY = "end-of-the-frame"


@dataclass(frozen=True)
class PeerFrame:
    """A frame in the forms that the contenders take."""

    image: npt.NDArray[np.uint8]
    """Grey image ``[H, W]``, normalised beforehand."""
    file: Path
    """File that holds ``image``, without compression."""
    upload: bytes
    """The file's bytes, which are posted to the peers."""


@dataclass(frozen=True)
class Setting:
    """Everything that a contender needs to start."""

    urls: Mapping[str, str]
    """Variant -> ``host:port`` of its embedded Triton; `DEFAULT`'s also serves the raw network."""
    checkpoints: Path
    """Folder with the checkpoints `cells`, `targets` and `classifier`, in a temporary folder."""
    clients: int


class Caller(Protocol):
    """One client of a contender."""

    def whole(self, pipeline: str, frame: PeerFrame) -> Found:
        """Return the cells of a frame."""

    def timed(self, pipeline: str, frame: PeerFrame) -> object:
        """Do the same, without what only the comparison of answers needs."""


@dataclass(frozen=True)
class Contender:
    """A server or program that finds cells."""

    name: str
    title: str
    pipelines: tuple[str, ...]
    open: Callable[[Setting], AbstractContextManager[Sequence[Caller]]]
    package: str | None = None
    """Main package of its environment, which has the contender's name; None: this project's own."""
    unmatched_share: float = UNMATCHED
    """Share of both sides' cells that may have no partner on the other side."""


class ServedAsker:
    """Our client, which adds the outlines that the other contenders answer with."""

    def __init__(self, url: str) -> None:
        self._client = Client(url, timeout=ANSWER_TIMEOUT)

    def whole(self, pipeline: str, frame: PeerFrame) -> Found:
        """Segment the frame as a whole, at the scale and the threshold that the peers use."""
        cells = self._client.segment(
            frame.image, pipeline, scale="fit", score_threshold=SCORE_THRESHOLD
        )
        return Found(cells.boxes, cells.class_ids.astype(np.int64), cells.polygons())

    timed = whole

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextmanager
def open_served(setting: Setting, variant: str = DEFAULT) -> Iterator[Sequence[Caller]]:
    """Yield clients of the embedded Triton that serves ``variant``."""
    clients = [ServedAsker(setting.urls[variant]) for _ in range(setting.clients)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


class StdioCaller:
    """A program that reads requests as lines; threads that share it wait for each other."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._lock = threading.Lock()

    def whole(self, pipeline: str, frame: PeerFrame) -> Found:
        """Request the whole answer."""
        return Found.from_json(self._ask(pipeline, frame, whole=True))

    def timed(self, pipeline: str, frame: PeerFrame) -> object:
        """Request the count only, so that sending the answer out of the program costs nothing."""
        return self._ask(pipeline, frame, whole=False)

    def _ask(self, pipeline: str, frame: PeerFrame, whole: bool) -> Any:
        request = {"pipeline": pipeline, "file": str(frame.file), "whole": whole}
        with self._lock:
            print(json.dumps(request), file=self._program.requests, flush=True)
            answer = self._program.answers.readline()
        if not answer:
            raise self._program.failed("ended")
        return json.loads(answer)

    def wait(self) -> None:
        """Wait until the program says that it is ready."""
        if self._program.answers.readline().strip() != READY:
            raise self._program.failed("ended before it was ready")


@contextmanager
def open_study(setting: Setting) -> Iterator[Sequence[Caller]]:
    """Start one Python process that answers all clients, frame after frame."""
    command = [sys.executable, "-m", "benchmarks.peers.study"]
    with programs([command], checkpoints_variable(setting), by_lines=True) as [started]:
        asker = StdioCaller(started)
        asker.wait()
        yield [asker] * setting.clients


@contextmanager
def open_ultralytics(setting: Setting) -> Iterator[Sequence[Caller]]:
    """Start a process per client, since each microscope has its own."""
    python = environment_of("ultralytics") / "bin/python"
    address = f"grpc://{setting.urls[DEFAULT]}/{RAW_NETWORK}"
    command = [str(python), "-m", "benchmarks.peers.ultralytics_client", address]
    with programs([command] * setting.clients, {}, by_lines=True) as started:
        clients = [StdioCaller(each) for each in started]
        for client in clients:
            client.wait()
        yield clients


class HttpCaller:
    """A client that posts a frame and gets JSON, over a new connection each time.

    Between two requests, all processes of the server are suspended. Some of them poll for work a
    thousand times per second, on the cores that the other contenders are measured on.
    """

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def whole(self, pipeline: str, frame: PeerFrame) -> Found:
        """Post the image file to ``/<pipeline>``."""
        with self._server.awake():
            return Found.from_json(self._server.post(f"/{pipeline}", frame.upload))

    timed = whole


class HttpServer:
    """A peer's server that is ready for requests."""

    def __init__(self, program: Program, port: int) -> None:
        self._program = program
        self._port = port
        self._askers = 0
        self._lock = threading.Lock()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if program.process.poll() is not None or time.monotonic() > deadline:
                raise program.failed("did not become ready")
            time.sleep(POLL_S)
        self._members = program.members()
        self._suspend()

    def post(self, path: str, image: bytes) -> Any:
        """Post an image file as the form's field ``image`` and return the JSON of the answer.

        Raises:
            PeerError: the server did not answer, or not with 200.
        """
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; '
            'filename="frame.bmp"\r\nContent-Type: image/bmp\r\n\r\n'
        )
        body = b"".join([head.encode(), image, f"\r\n--{BOUNDARY}--\r\n".encode()])
        connection = HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT)
        try:
            form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
            connection.request("POST", path, body, form)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException) as error:
            raise self._program.failed(f"did not answer ({error})") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise self._program.failed(f"answered with {answer.status} {answer.reason}")
        return json.loads(text)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the server run during the block, and suspend it when the last such block ends."""
        with self._lock:
            self._askers += 1
            if self._askers == 1:
                for member in self._members:
                    member.resume()
        try:
            yield
        finally:
            with self._lock:
                self._askers -= 1
                if not self._askers:
                    self._suspend()

    def _suspend(self) -> None:
        for member in self._members:
            member.suspend()

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def open_litserve(setting: Setting) -> Iterator[Sequence[Caller]]:
    """Start LitServe, see `benchmarks.peers.litserve_server`."""
    python = environment_of("litserve") / "bin/python"
    port = free_port()
    command = [str(python), "-m", "benchmarks.peers.litserve_server", str(port)]
    with programs([command], checkpoints_variable(setting), by_lines=False) as [started]:
        server = HttpServer(started, port)
        yield [HttpCaller(server) for _ in range(setting.clients)]


def checkpoints_variable(setting: Setting) -> Mapping[str, str]:
    """Return the environment variable by which programs find their weights."""
    return {CHECKPOINTS_VARIABLE: str(setting.checkpoints)}


def free_port() -> int:
    """Find a TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


SERVED = Contender(OURS, "this server", PIPELINES, open_served)
STUDY = Contender("study", "the study's way: PyTorch in one Python process", PIPELINES, open_study)

CONTENDERS = (
    SERVED,
    STUDY,
    Contender(
        "ultralytics",
        "ultralytics' client of this Triton, which runs its network alone",
        ("yolo",),
        open_ultralytics,
        package="ultralytics",
    ),
    Contender("litserve", "PyTorch behind LitServe", PIPELINES, open_litserve, package="litserve"),
)


def served_as(variant: str) -> Contender:
    """Return this server with a variant of its model repository as a further contender."""
    return Contender(
        served_name(variant),
        f"this server, --variant {variant}",
        PIPELINES,
        partial(open_served, variant=variant),
        unmatched_share=VARIANT_UNMATCHED,
    )
