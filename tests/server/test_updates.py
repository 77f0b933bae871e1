"""New versions are served while requests run: none fails, and none sees a mixture."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from cytoserve import Client, VersionNotServed
from cytoserve.access import admin_headers, read_address
from cytoserve.contract import PIPELINES
from cytoserve.model_config import CARD_FILE, CONFIG_FILE, read_config
from server.access import ServerAccess
from server.embedded import EmbeddedServer
from server.served_repository import ServedRepository
from server.updates import Updates

SWITCHED_S = 60.0
CALLERS = 8


def mark_wait(repository: Path, version: int) -> None:
    """A version of `yolo_wait` that adds its number to every pixel."""
    source = (repository / "yolo_wait/.source/model.py").read_text()
    plain = 'pb_utils.Tensor("waited", frame)'
    marked = f'pb_utils.Tensor("waited", (frame + {version}).astype("uint16"))'
    folder = repository / "yolo_wait" / f".{version}"
    folder.mkdir()
    (folder / "model.py").write_text(source.replace(plain, marked))


def mark_cells(repository: Path, version: int) -> None:
    """A version of `yolo_cells` that answers 17 + its number + 10 times the frame's brightest."""
    model = onnx.load(repository / "yolo_cells/.source/model.onnx")
    [found] = [node for node in model.graph.node if "cells_found" in node.output]
    model.graph.node.remove(found)
    number = helper.make_tensor("number", TensorProto.INT32, [1], [version])
    ten = helper.make_tensor("ten", TensorProto.INT32, [1], [10])
    model.graph.initializer.extend([number, ten])
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["waited"], ["pixels"], to=TensorProto.INT32),
            helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
            helper.make_node("Mul", ["brightest", "ten"], ["tens"]),
            helper.make_node("Add", ["max_cells", "number"], ["some"]),
            helper.make_node("Add", ["some", "tens"], ["cells_found"]),
        ]
    )
    folder = repository / "yolo_cells" / f".{version}"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")


def answer_of(cells: int, wait: int) -> int:
    return 17 + cells + 10 * wait


def write_card(folder: Path, version: int) -> None:
    """Record that a version of the pipeline was exported with the same version of its steps."""
    models = {name: {"version": version} for name in ("yolo_wait", "yolo_cells")}
    (folder / CARD_FILE).write_text(json.dumps({"models": models}))


@contextmanager
def exporting(repository: Path) -> Iterator[None]:
    """Hold the lock that an export holds while it installs."""
    descriptor = os.open(repository, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def install(repository: Path, version: int, pause: float = 0.0) -> None:
    """Install a version of both steps, the pipeline and its card, one after the other."""
    mark_wait(repository, version)
    mark_cells(repository, version)
    for name in ("yolo", "yolo_card"):
        shutil.copytree(repository / name / "1", repository / name / f".{version}")
    write_card(repository / "yolo" / f".{version}", version)
    with exporting(repository):
        for name in ("yolo_wait", "yolo_cells", "yolo", "yolo_card"):
            (repository / name / f".{version}").rename(repository / name / str(version))
            time.sleep(pause)


@pytest.fixture
def repository(own_repository: Path) -> Path:
    """A tiny repository whose version 1 answers 28."""
    for name, mark in (("yolo_wait", mark_wait), ("yolo_cells", mark_cells)):
        (own_repository / name / "1").rename(own_repository / name / ".source")
        mark(own_repository, 1)
        (own_repository / name / ".1").rename(own_repository / name / "1")
    write_card(own_repository / "yolo" / "1", 1)
    return own_repository


class Load:
    """Callers that ask without a pause, and what they were answered."""

    def __init__(self, url: str, call: Callable[[str], Any]) -> None:
        self.answers: list[int] = []
        self.errors: list[str] = []
        self.stopping = threading.Event()
        callers = [call(url) for _ in range(CALLERS)]
        self.threads = [threading.Thread(target=self.ask, args=(each,)) for each in callers]

    def ask(self, caller: Any) -> None:
        while not self.stopping.is_set():
            try:
                self.answers.append(caller.request(wait=0.02))
            except InferenceServerException as error:
                self.errors.append(str(error))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def brightness(wait: int) -> int:
    """What `yolo_wait` hands on of the load's frames, whose pixels are 20."""
    return 20 + wait


OLD, NEW = (answer_of(number, brightness(number)) for number in (1, 2))
MIXED = {answer_of(1, brightness(2)), answer_of(2, brightness(1))}


def test_an_export_of_two_steps_is_switched_to_at_once(
    repository: Path, call: Callable[[str], Any], wait_until: Callable[..., float], triton_of: Any
) -> None:
    with EmbeddedServer(repository, ["yolo"]) as server:
        with Load(server.url, call) as load:
            wait_until(lambda: len(load.answers) > 50, SWITCHED_S)
            install(repository, 2, pause=0.5)
            wait_until(
                lambda: "Now serving the new version of yolo 2." in server.output, SWITCHED_S
            )
            begun = len(load.answers)
            wait_until(lambda: len(load.answers) > begun + 50, SWITCHED_S)
        assert load.errors == []
        seen = Counter(load.answers)
        assert set(seen) == {OLD, NEW}, f"mixed: {MIXED & set(seen)}"
        assert set(load.answers[-8:]) == {NEW}
        triton_of(server).kill()  # started again, it serves the new version too
        wait_until(lambda: "Serving again" in server.output, SWITCHED_S)
        assert call(server.url).request() == answer_of(2, 2)


def test_a_version_that_does_not_load_is_told_and_the_former_goes_on(
    repository: Path, call: Callable[[str], Any], wait_until: Callable[..., float]
) -> None:
    with EmbeddedServer(repository, ["yolo"]) as server:
        caller = call(server.url)
        assert caller.request() == answer_of(1, 1)
        broken = repository / "yolo_cells" / "2"
        with exporting(repository):
            broken.mkdir()
            (broken / "model.onnx").write_bytes(b"no graph")
        wait_until(lambda: "The new version cannot be served" in server.output, SWITCHED_S)
        assert "python -m export rollback" in server.output
        assert caller.request() == answer_of(1, 1)
        shutil.rmtree(broken)
        install(repository, 3)
        wait_until(lambda: "Now serving the new version of yolo 3." in server.output, SWITCHED_S)
        assert caller.request() == answer_of(3, 3)
        assert "Restarting" not in server.output


def test_callers_choose_among_two_versions_under_load(
    repository: Path,
    call: Callable[..., Any],
    wait_until: Callable[..., float],
) -> None:
    """A caller of one version is answered by it alone, before an export, after it and after two."""
    with EmbeddedServer(repository, ["yolo"], options=["--versions=2"]) as server:
        first, newest = call(server.url, "yolo.1"), call(server.url)
        assert first.request() == newest.request() == answer_of(1, 1)
        with Load(server.url, partial(call, model="yolo.1")) as load:
            wait_until(lambda: len(load.answers) > 50, SWITCHED_S)
            install(repository, 2)
            wait_until(lambda: "the new version of yolo 2." in server.output, SWITCHED_S)
            begun = len(load.answers)
            wait_until(lambda: len(load.answers) > begun + 50, SWITCHED_S)
        assert load.errors == []
        assert set(load.answers) == {OLD}
        assert newest.request() == call(server.url, "yolo.2").request() == answer_of(2, 2)
        with Client(server.url) as client, pytest.raises(VersionNotServed, match="version 3 of"):
            client.segment(np.zeros((9, 9), np.uint8), "yolo", version=3)
        install(repository, 3)
        wait_until(lambda: "the new version of yolo 3." in server.output, SWITCHED_S)
        asked = {n: call(server.url, f"yolo.{n}").request() for n in (2, 3)}
        assert asked == {2: answer_of(2, 2), 3: answer_of(3, 3)}


@pytest.mark.slow
def test_the_former_version_is_unloaded_after_a_while(
    repository: Path, call: Callable[[str], Any], wait_until: Callable[..., float]
) -> None:
    with EmbeddedServer(repository, ["yolo"]) as server:
        install(repository, 2)
        address = read_address(server.url)
        client = ServerAccess((), admin_headers(address)).client(address.target)

        def ready() -> set[str]:
            index = client.get_model_repository_index().models
            return {f"{m.name} {m.version}" for m in index if m.state == "READY"}

        wait_until(lambda: "yolo_cells 2" in ready(), SWITCHED_S)
        assert "yolo_cells 1" in ready()
        wait_until(lambda: "yolo_cells 1" not in ready(), 3 * SWITCHED_S)
        assert call(server.url).request() == answer_of(2, 2)
        client.close()


def test_a_dead_server_does_not_end_the_looking(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., float],
) -> None:
    """A server may die in the middle of a switch; the supervisor starts another one."""
    served = ServedRepository(repository, tmp_path / "served", [PIPELINES["yolo"]], None)
    served.lay_out()
    install(repository, 2)
    monkeypatch.setattr("server.updates.CHECK_S", 0.05)
    stopping, tries = threading.Event(), []

    def connect() -> Any:
        tries.append(1)
        return ServerAccess((), {}).client("127.0.0.1:9")  # nobody answers there

    Updates(served, connect, print, stopping).start()
    wait_until(lambda: len(tries) > 2, SWITCHED_S)
    stopping.set()
    assert served.served["yolo"] == 1


def test_only_the_newest_version_is_seen_and_pinned(repository: Path, tmp_path: Path) -> None:
    install(repository, 2)
    served = ServedRepository(repository, tmp_path / "served", [PIPELINES["yolo"]], None)
    served.lay_out()
    assert served.served == dict.fromkeys(("yolo_wait", "yolo_cells", "yolo", "yolo_card"), 2)
    for model in served.served:
        assert served.visible(model) == [2]
    steps = read_config(tmp_path / "served/yolo" / CONFIG_FILE).ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in steps] == [
        ("yolo_wait", 2),
        ("yolo_cells", 2),
    ]
    assert served.update() is None
    with exporting(repository):
        shutil.rmtree(repository / "yolo_cells/2")
        assert served.update() is None  # until the export has ended
    assert served.update() == served.served | {"yolo_cells": 1}


def test_a_model_of_no_pipeline_can_be_loaded_by_its_name(
    own_repository: Path, call: Callable[..., Any]
) -> None:
    shutil.copytree(own_repository / "yolo_cells", own_repository / "other")
    config = own_repository / "other" / CONFIG_FILE
    config.write_text(config.read_text().replace('name: "yolo_cells"', 'name: "other"'))
    for kind in ("empty", "spoilt"):
        (own_repository / kind).mkdir()
    (own_repository / "spoilt" / CONFIG_FILE).write_text("{")
    options = ["--", "--load-model=other"]
    with EmbeddedServer(own_repository, ["yolo"], options=options) as server:
        assert call(server.url).client.is_model_ready("other")
        assert call(server.url).request() == 17
