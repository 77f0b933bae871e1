"""What `python -m server` prints, refuses and passes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from cytoserve.contract import PIPELINES
from server.embedded import EmbeddedServer
from server.installation import folder_of


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command until it ends by itself."""
    path = os.pathsep.join(map(str, {folder_of("server"), folder_of("cytoserve")}))
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listening(process: psutil.Process) -> set[str]:
    """Addresses at which a process listens; gRPC has IPv4 ones as IPv6."""
    return {
        f"{connection.laddr[0].removeprefix('::ffff:')}:{connection.laddr[1]}"
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def truncate(repository: Path) -> None:
    model = repository / "yolo_cells/1/model.onnx"
    model.write_bytes(model.read_bytes()[:20])


def misspell(repository: Path) -> None:
    config = repository / "yolo_cells/config.pbtxt"
    config.write_text(config.read_text().replace('"waited"', '"wayted"'))


def garble(repository: Path) -> None:
    (repository / "yolo_cells/config.pbtxt").write_text('backend: "onnxruntime"\ninputs { }\n')


def remove_file(repository: Path) -> None:
    (repository / "yolo_cells/1/model.onnx").unlink()


def remove_card(repository: Path) -> None:
    (repository / "yolo_card/1/model.onnx").unlink()


def break_frames(repository: Path) -> None:
    (repository / "broken").touch()


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        pytest.param(
            truncate,
            ["Model yolo_cells cannot be loaded: onnx runtime error 7", "python -m export yolo"],
            id="truncated model",
        ),
        pytest.param(
            misspell,
            ["Model yolo_cells cannot be loaded: unexpected inference input 'wayted'"],
            id="mismatched config",
        ),
        pytest.param(
            garble,
            ["yolo_cells/config.pbtxt is not a model configuration: 2:1", '"inputs"'],
            id="config that is none",
        ),
        pytest.param(
            remove_file,
            ["nothing to serve", "yolo_cells/<version>/model.onnx", "python -m export yolo"],
            id="missing model",
        ),
        pytest.param(
            remove_card,
            ["nothing to serve", "yolo_card/<version>/model.onnx"],
            id="missing card",
        ),
        pytest.param(
            break_frames,
            ["Pipeline yolo is loaded, but fails on a frame of 32 x 32 pixels", "upside down"],
            id="pipeline that fails",
        ),
    ],
)
def test_a_broken_repository_is_explained(
    own_repository: Path, damage: Callable[[Path], None], texts: list[str]
) -> None:
    damage(own_repository)
    ended = run("--model-repository", own_repository, "--pipelines", "yolo", "--grpc-port", 0)
    assert ended.returncode == 1
    for text in texts:
        assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_nothing_exported(tmp_path: Path) -> None:
    ended = run("--model-repository", tmp_path)
    assert ended.returncode == 1
    assert "python -m export yolo\n" in ended.stderr
    assert "python -m export yolo_resnet\n" in ended.stderr


def test_what_pipelines_lack_is_told_of_those_asked_for(tiny_repository: Path) -> None:
    ended = run("--model-repository", tiny_repository, "--pipelines", "maskrcnn,yolo_resnet")
    assert ended.returncode == 1
    for name in ("maskrcnn", "yolo_resnet"):
        assert f"Pipeline {name} is not exported: {name}/config.pbtxt" in ended.stderr
        assert f"Make it with: python -m export {name}\n" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(
            ["--pipelines", "yolo9"], 2, "yolo9 is no pipeline; there are yolo", id="name"
        ),
        pytest.param(
            ["--model-repository", "/no/where"], 1, "/no/where is not a folder", id="folder"
        ),
        pytest.param(["--grpc-port", "70000"], 2, "70000 is not in the range", id="port"),
    ],
)
def test_bad_arguments(arguments: list[str], code: int, text: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == code
    assert text in ended.stderr


@pytest.mark.parametrize("option", ["--grpc-port", "--metrics-port"])
def test_a_busy_port_is_reported_before_models_are_loaded(
    own_repository: Path, taken_port: int, option: str
) -> None:
    truncate(own_repository)
    other = ["--grpc-port", "0"] if option == "--metrics-port" else []
    ended = run(
        "--model-repository", own_repository, "--pipelines=yolo", *other, option, taken_port
    )
    assert ended.returncode == 1
    assert "cannot be loaded" not in ended.stderr
    me = psutil.Process()
    assert f"127.0.0.1:{taken_port}" in ended.stderr
    assert f"held by {me.name()} (pid {me.pid})" in ended.stderr
    assert f"another port with {option}" in ended.stderr


@pytest.mark.parametrize(
    ("address", "insecure", "told"),
    [
        pytest.param("0.0.0.0", False, "opens the server to other machines, so it", id="refused"),
        pytest.param("::", False, "opens the server to other machines, so it", id="IPv6"),
        pytest.param("0.0.0.0", True, "Warning: serving at 0.0.0.0 without a key", id="insecure"),
        pytest.param("127.0.0.1", False, None, id="loopback"),
        pytest.param("localhost", True, None, id="by-name"),
    ],
)
def test_an_address_open_to_others_needs_proof_or_a_word(
    tiny_repository: Path, taken_port: int, address: str, insecure: bool, told: str | None
) -> None:
    ended = run(
        *("--model-repository", tiny_repository, "--pipelines=yolo"),
        *("--listen", address, "--grpc-port", taken_port),
        *["--insecure"] * insecure,
    )
    assert ended.returncode == 1  # the port is taken, so nothing is served either way
    assert ("cannot be used" in ended.stderr) == (insecure or told is None)
    if told is None:
        assert "Warning" not in ended.stderr
    else:
        assert told in ended.stderr


def test_a_server_with_everything_asked_for(
    tiny_repository: Path, triton_of: Callable[[EmbeddedServer], psutil.Process]
) -> None:
    metrics = free_port()
    options = ["--metrics-port", str(metrics), "--", "--log-verbose=1"]
    with EmbeddedServer(tiny_repository, options=options) as server:
        triton = triton_of(server)
        assert listening(triton) == {server.url, f"127.0.0.1:{metrics}"}
        assert triton.cmdline()[-1] == "--log-verbose=1"
        with urlopen(f"http://127.0.0.1:{metrics}/metrics") as answer:
            assert b"nv_inference_count" in answer.read()
        *missing, ready = server.output.splitlines()
    absent = [name for name in PIPELINES if name != "yolo"]
    assert missing == [
        f"Not exported, so not served: {', '.join(absent)}. "
        f"What is missing: python -m server --model-repository {tiny_repository} "
        f"--pipelines {','.join(absent)}"
    ]
    assert ready.startswith(f"Ready at {server.url}: yolo (")


def test_loads_what_the_pipelines_need_and_listens_on_loopback_only(
    shared_server: EmbeddedServer,
    tiny_repository: Path,
    triton_of: Callable[[EmbeddedServer], psutil.Process],
) -> None:
    client = shared_server.admin_client()
    (tiny_repository / "unrelated/1").mkdir(parents=True)
    (tiny_repository / "unrelated/config.pbtxt").write_text('backend: "onnxruntime"')
    index = client.get_model_repository_index().models
    ready = {model.name for model in index if model.state == "READY"}
    assert ready == {"yolo", "yolo_wait", "yolo_cells", "yolo_card"}
    client.close()
    assert shared_server.url.startswith("127.0.0.1:")
    assert listening(triton_of(shared_server)) == {shared_server.url}
