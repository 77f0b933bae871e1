"""Published weights: fetched from a server, read without arbitrary pickle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from training.checkpoint import CheckpointError
from training.yolo.network import SegmentationModel, fetch_coco_weights, new_network, read_published


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Keep the requests to itself."""


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of the server that publishes it."""
    folder = tmp_path / "published"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def network() -> SegmentationModel:
    return new_network(80)


def save_as_ultralytics_does(network: SegmentationModel, file: Path, key: str) -> None:
    """Half precision, whole objects, training arguments beside them."""
    network.args = {"task": "segment", "imgsz": 640}
    network.names = {index: f"class {index}" for index in range(80)}
    content = {"epoch": -1, "best_fitness": None, "model": None, "ema": None, "optimizer": None}
    content |= {key: network.half(), "train_args": {"lr0": 0.01}, "date": "2024-09-30"}
    torch.save(content, file)
    network.float()


@pytest.mark.parametrize("key", ["model", "ema"])
def test_fetches_reads_and_keeps(
    published: tuple[Path, str], hub: Path, network: SegmentationModel, key: str
) -> None:
    folder, address = published
    save_as_ultralytics_does(network, folder / "weights.pt", key)
    weights = fetch_coco_weights(f"{address}/weights.pt")
    expected = network.state_dict()
    assert list(weights) == list(expected)
    for name, tensor in weights.items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, expected[name].float())
    assert [file.name for file in hub.iterdir()] == ["weights.pt"]
    (folder / "weights.pt").unlink()
    assert list(fetch_coco_weights(f"{address}/weights.pt")) == list(expected)


def test_a_file_put_there_by_hand_is_taken(
    hub: Path, tmp_path: Path, network: SegmentationModel
) -> None:
    hub.mkdir(parents=True)
    save_as_ultralytics_does(network, tmp_path / "weights.pt", "model")
    shutil.copy(tmp_path / "weights.pt", hub)
    assert fetch_coco_weights("http://127.0.0.1:9/weights.pt")


def test_weights_that_are_not_there(published: tuple[Path, str], hub: Path) -> None:
    with pytest.raises(CheckpointError, match=r"404.*Put the file at .*weights\.pt by hand"):
        fetch_coco_weights(f"{published[1]}/weights.pt")
    assert not list(hub.iterdir())


def test_a_server_that_is_not_there(hub: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be reached.*refused.*omit --init"):
        fetch_coco_weights("http://127.0.0.1:9/weights.pt")
    assert not list(hub.iterdir())


class Malice:
    """Unpickled, it makes a folder through the shell."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"mkdir {self.proof}",)


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    proof, file = tmp_path / "executed", tmp_path / "weights.pt"
    torch.save({"model": Malice(proof), "ema": None}, file)
    with pytest.raises(CheckpointError, match=r"no ultralytics checkpoint.*posix\.system"):
        read_published(file)
    assert not proof.exists()
    torch.load(file, weights_only=False)
    assert proof.exists()  # the file would have done it


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>not found</html>", id="a web page"),
        pytest.param(b"PK\x03\x04" + bytes(500), id="half a file"),
    ],
)
def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pt is no ultralytics.*Remove it"):
        read_published(file)


@pytest.mark.parametrize("content", [{"model": None}, {"state": 1}, [1, 2]])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no ultralytics checkpoint"):
        read_published(tmp_path / "weights.pt")
