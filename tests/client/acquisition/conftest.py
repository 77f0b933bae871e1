"""Servers and clients whose speed a test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cytoserve import Cells, Client, FakeServer, Request
from cytoserve.contract import PIPELINES
from cytoserve.transport import Tensors


class HeldServer(FakeServer):
    """Answers frames only while ``go`` is set, and then after ``delay`` seconds; cards at once."""

    def __init__(self, cells: Cells) -> None:
        super().__init__(cells)
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Semaphore(0)
        self.delay = 0.0

    async def infer(self, request: Request, timeout: float) -> Tensors:
        if request.model in PIPELINES:
            self.asked.release()
            assert self.go.wait(30)
            time.sleep(self.delay)
        return await super().infer(request, timeout)


@pytest.fixture
def held(cells: Cells) -> Iterator[HeldServer]:
    """A server that answers frames only while ``held.go`` is set."""
    server = HeldServer(cells)
    yield server
    server.go.set()


@pytest.fixture
def held_client(held: HeldServer) -> Client:
    return Client(transport=held)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds, and fails after half a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.005)

    return wait


@pytest.fixture
def rgb32() -> np.ndarray:
    """What a Micro-Manager camera of pixel type 32bitRGB gives without pymmcore-plus."""
    return np.zeros((60, 80, 4), np.uint8)
