"""What the server prints: lines of text or of JSON, with the requests that failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoserve import ServerError
from cytoserve.contract import CARD_INPUT, CARD_OUTPUT
from cytoserve.grpc_transport import GrpcTransport
from cytoserve.shared_memory_transport import SharedMemoryTransport
from cytoserve.transport import Request
from server.embedded import EmbeddedServer
from server.log import Log, new_lines

BROKEN = 'E1201 05:13:58.123456 77 model.cc:9] "[request id: 3fa1] yolo_cells: upside down"'
WARNING = "W1201 05:13:58.123456 77 server.cc:241] not so good"
CUDA = 'E1201 05:13:58.123456 77 server.cc:241] "CudaDriverHelper has not been initialized."'
CHATTER = 'I1201 05:13:58.123456 77 server.cc:674] "Started"'


def printed(line: str, as_json: bool, on_gpu: bool = False) -> list[Any]:
    lines: list[str] = []
    log = Log(lines.append, lines.append, as_json)
    log.on_gpu = on_gpu
    log.tell_of_triton(line)
    return [json.loads(line) if as_json else line for line in lines]


def test_text_has_the_requests_that_failed_alone() -> None:
    assert printed(BROKEN, False) == ["Error: [request id: 3fa1] yolo_cells: upside down"]
    for line in (WARNING, CUDA, CHATTER, "", "| yolo | 1 | READY |"):
        assert printed(line, False) == []


def test_json_has_all_warnings_and_errors() -> None:
    [entry] = printed(BROKEN, True)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "error",
        "source": "triton",
        "message": "[request id: 3fa1] yolo_cells: upside down",
        "place": "model.cc:9",
        "request": "3fa1",
    }
    [entry] = printed(WARNING, True)
    assert (entry["level"], entry["message"]) == ("warning", "not so good")
    assert printed(CHATTER, True) == []
    assert printed(CUDA, True) == []
    assert len(printed(CUDA, True, on_gpu=True)) == 1


def test_lines_are_read_once_complete_and_of_a_file_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "tritonserver.log"
    lines = new_lines(file)
    assert next(lines) == []
    file.write_bytes(b"one\ntw")
    assert next(lines) == ["one"]
    assert next(lines) == []
    with file.open("ab") as opened:
        opened.write(b"o\nthree\n\xff\n")
    assert next(lines) == ["two", "three", "\ufffd"]
    file.write_bytes(b"anew\n")
    assert next(lines) == ["anew"]


@pytest.mark.parametrize("transport", [GrpcTransport, SharedMemoryTransport])
def test_client_and_log_name_the_same_request(
    tiny_repository: Path, wait_until: Callable[..., float], transport: Any
) -> None:
    """The card's graph fails for a page that it has not; the ensemble before it hands the id on."""
    options = ["--log-format=json", "--versions=2"]
    with EmbeddedServer(tiny_repository, ["yolo"], options=options) as server:
        page = {CARD_INPUT.name: np.array([5], np.int64)}
        asking = transport(server.url)
        for model in ("yolo_card", "yolo_card.1"):
            request = Request(model, page, (CARD_OUTPUT.name,))
            with pytest.raises(ServerError, match=rf"\[request id: {request.id}\]"):
                asyncio.run(asking.infer(request, 10.0))

            def told(request: Request = request) -> list[Any]:
                return [each for each in entries_of(server) if each.get("request") == request.id]

            wait_until(lambda told=told: bool(told()), 30.0)
            [entry] = told()
            assert (entry["source"], entry["level"]) == ("triton", "error")
            assert "yolo_card: onnx runtime error" in entry["message"]
        asyncio.run(asking.close())
        ready = [entry for entry in entries_of(server) if entry["message"].startswith("Ready at")]
        assert [entry["source"] for entry in ready] == ["launcher"]


def entries_of(server: EmbeddedServer) -> list[Any]:
    return [json.loads(line) for line in server.output.splitlines()]
