"""Frames through shared memory, to the real server: same answers, and nothing left behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from cytoserve import Client, DeadlineExceeded, InvalidSetting, Prompts
from cytoserve.access import admin_headers, read_address
from cytoserve.shared_memory_transport import (
    FOLDER,
    MIN_SHARED_BYTES,
    SharedMemoryTransport,
    layout,
)
from server.access import ServerAccess
from server.embedded import EmbeddedServer
from training.rendered import RenderSettings, render_frame

ROOT = Path(__file__).parents[2]


def rendered(height: int, width: int, seed: int = 0) -> np.ndarray:
    return render_frame(RenderSettings(height=height, width=width, cells=8), seed)[0]


GREY = rendered(240, 320)
RGB = np.dstack([rendered(200, 300) >> 8] * 3).astype(np.uint8)
MASKS = Prompts(
    boxes=[(10 + i, 10, 60 + i, 70) for i in range(30)], masks=np.full((30, 56, 56), 200, np.uint8)
)

CALLS = {
    "instances": lambda client: client.segment(RGB, "yolo"),
    "labels": lambda client: client.segment(GREY, "yolo_resnet", labels=True),
    "maskrcnn_sam": lambda client: client.segment(GREY, "maskrcnn_sam", max_cells=20),
    "prompts": lambda client: client.prompt(RGB, Prompts(boxes=[(10, 10, 60, 70)])),
    "coarse masks, large too": lambda client: client.prompt(GREY, MASKS),
    "whole frame": lambda client: client.foreground(GREY, "glioma_unet"),
    "tiles": lambda client: client.foreground(RGB, "nuclei_unet"),
    "a frame too small for it": lambda client: client.segment(GREY[:60, :80], "yolo"),
}


def files(pid: int | None = None) -> list[str]:
    return [file.name for file in FOLDER.glob(f"cytoserve-client-{pid or os.getpid()}-*")]


def administration(url: str) -> triton.InferenceServerClient:
    """A connection that may ask about memory, as a client of the server's own user may."""
    address = read_address(url)
    return ServerAccess((), admin_headers(address)).client(address.target)


def registered(url: str) -> set[str]:
    with administration(url) as connection:
        return set(connection.get_system_shared_memory_status().regions)


def unregister_all(url: str) -> None:
    """The server lets go of a request's memory some time after its answer; it refuses before."""
    deadline = time.monotonic() + 10
    with administration(url) as connection:
        while connection.get_system_shared_memory_status().regions:
            try:
                connection.unregister_system_shared_memory()
            except InferenceServerException:
                assert time.monotonic() < deadline
                time.sleep(0.05)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """On a busy machine a call that was given up may run on at the server for long."""
    monkeypatch.setattr("cytoserve.shared_memory_transport.FORGET_TIMEOUT_S", 60.0)


@pytest.fixture(scope="module")
def plain(server):
    with Client(server.url, timeout=120) as client:
        yield client


@pytest.fixture
def client(server):
    """A client with shared memory, of which nothing is left afterwards."""
    with Client(transport=SharedMemoryTransport(server.url), timeout=120) as client:
        yield client
    assert files() == []
    assert registered(server.url) == set()


def arrays(answer) -> dict[str, np.ndarray]:
    return {name: value for name, value in vars(answer).items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_answers_are_those_of_messages(server, plain, client, call):
    expected, given = arrays(call(plain)), arrays(call(client))
    assert len(expected) > 1
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(given[name], value, name)


def test_a_region_is_used_again_and_grows(server, client):
    seen = []
    for side in (200, 300, 1024, 200):
        client.foreground(np.zeros((side, side), np.uint16), "glioma_unet")
        seen.append(registered(server.url))
        assert set(files()) == seen[-1]
    assert [len(names) for names in seen] == [1, 1, 1, 1]
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_calls_at_the_same_time_have_regions_of_their_own(server, plain, client):
    images = [rendered(240, 320, seed) for seed in range(4)]
    together = threading.Barrier(len(images))

    def ask(image):
        together.wait()
        return [client.segment(image, "yolo").boxes for _ in range(3)]

    with ThreadPoolExecutor(len(images)) as pool:
        answers = list(pool.map(ask, images))
    for image, boxes in zip(images, answers, strict=True):
        expected = plain.segment(image, "yolo").boxes
        assert all(np.array_equal(each, expected) for each in boxes)
    assert 1 < len(registered(server.url)) <= len(images)


def test_a_region_that_was_unregistered_is_registered_again(server, plain, client):
    client.segment(GREY, "yolo")
    before = files()
    unregister_all(server.url)
    np.testing.assert_array_equal(
        client.segment(RGB, "yolo").boxes, plain.segment(RGB, "yolo").boxes
    )
    assert files() == before
    assert registered(server.url) == set(before)


def test_a_call_that_was_given_up_keeps_its_memory_to_itself(client, plain):
    with pytest.raises(DeadlineExceeded):
        client.segment(GREY, "maskrcnn_sam", timeout=0.08)
    assert files() == []  # nothing overwrites what the server may still read
    np.testing.assert_array_equal(
        client.segment(RGB, "yolo").boxes, plain.segment(RGB, "yolo").boxes
    )


def test_closing_waits_for_the_calls_of_other_threads(server):
    with (
        Client(transport=SharedMemoryTransport(server.url), timeout=120) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(client.segment, GREY, "maskrcnn_sam", max_cells=20)
        while not (files() and registered(server.url)):
            assert not running.done()
        client.close()
        assert running.result().frame_shape == GREY.shape
    assert files() == []
    assert registered(server.url) == set()


def test_a_server_that_is_slow_to_forget_is_asked_again(server, monkeypatch):
    transport = SharedMemoryTransport(server.url)
    forget, late = transport._server.unregister_system_shared_memory, []

    def unregister(name, **options):
        if not late:
            late.append(name)
            raise InferenceServerException("too late", "StatusCode.DEADLINE_EXCEEDED")
        forget(name, **options)

    monkeypatch.setattr(transport._server, "unregister_system_shared_memory", unregister)
    with Client(transport=transport, timeout=120) as client:
        seen = []
        for side in (200, 1024, 1024):
            client.foreground(np.zeros((side, side), np.uint16), "glioma_unet")
            seen.append(len(registered(server.url)))
        assert late
        assert seen == [1, 2, 1]
    assert registered(server.url) == set()


def test_a_server_that_was_started_anew(exported_repository):
    first = EmbeddedServer(exported_repository, ["nuclei_unet"])
    first.start()
    try:
        with Client(transport=SharedMemoryTransport(first.url), timeout=60) as client:
            before = client.foreground(GREY, "nuclei_unet")
            first.stop()
            port = int(first.url.rpartition(":")[2])
            with EmbeddedServer(exported_repository, ["nuclei_unet"], grpc_port=port):
                after = client.foreground(GREY, "nuclei_unet")
                assert registered(first.url) == set(files())
    finally:
        if first.process.poll() is None:
            first.stop()
    np.testing.assert_array_equal(after.probability, before.probability)
    assert files() == []


SCRIPT = """
import os, sys, numpy as np
from cytoserve import Client
from cytoserve.shared_memory_transport import SharedMemoryTransport

client = Client(transport=SharedMemoryTransport(sys.argv[1]), timeout=60)
client.foreground(np.zeros((1024, 1024), np.uint16), "nuclei_unet")
print("answered", flush=True)
sys.stdin.read()
raise RuntimeError("an exception that nobody expected")
"""


def start(url: str, *wrapper: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", SCRIPT, url],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_fails_takes_its_memory_back(server):
    process = start(server.url)
    assert process.stdout.readline() == "answered\n"
    assert len(files(process.pid)) == 1
    assert set(files(process.pid)) <= registered(server.url)
    _, errors = process.communicate()
    assert "an exception that nobody expected" in errors
    assert files(process.pid) == []
    assert registered(server.url) == set()


def test_a_killed_process_leaves_no_file(server):
    process = start(server.url)
    assert process.stdout.readline() == "answered\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until the tracker of its memory has ended as well
    assert files(process.pid) == []
    unregister_all(server.url)


@pytest.mark.parametrize(
    ("megabytes", "message"),
    [
        pytest.param(8, "server on the same machine.*which does not.*Client\\(url\\)", id="remote"),
        pytest.param(1, "left of /dev/shm.*No space left on device.*--shm-size", id="too small"),
    ],
)
def test_memory_that_the_server_does_not_see(server, megabytes, message):
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {FOLDER}"
    if subprocess.run([*own, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system gives a process no /dev/shm of its own")
    process = start(server.url, *own, f'{mount} && exec "$@"', "sh")
    _, errors = process.communicate()
    assert process.returncode == 1
    [last] = [line for line in errors.splitlines() if line.startswith("cytoserve.errors.")]
    assert re.search(message, last)
    assert registered(server.url) == set()


def test_memory_that_cannot_be_made(triton):
    import tritonclient.utils.shared_memory  # noqa: F401  # before no file can be opened

    with Client(transport=SharedMemoryTransport(triton.url)) as client:
        client.card("yolo")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(InvalidSetting, match=r"/dev/shm; given: .*Too many open files"):
                client.segment(GREY, "yolo")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files() == []


def test_other_systems_are_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InvalidSetting, match=r"on Linux only; given: .*win32\. Use Client\(url\)"):
        SharedMemoryTransport()


def test_importing_it_imports_nothing_of_linux():
    code = (
        "import sys, cytoserve.shared_memory_transport as module;"
        "module.SharedMemoryTransport('localhost:1');"
        "sys.exit('tritonclient.utils.shared_memory' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_layout():
    large, text = (
        np.zeros(MIN_SHARED_BYTES + 1, np.uint8),
        np.full(MIN_SHARED_BYTES, b"x", np.object_),
    )
    tensors = {"a": large, "small": large[: MIN_SHARED_BYTES - 1], "text": text, "b": large}
    assert layout(tensors) == ({"a": 0, "b": MIN_SHARED_BYTES + 64}, 2 * (MIN_SHARED_BYTES + 64))
    assert layout({"none": large[:0]}) == ({}, 0)
