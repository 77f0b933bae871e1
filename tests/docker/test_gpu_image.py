"""What runs in the GPU image, without the image: no machine here can pull it or has a GPU.

The start script is the real one. It starts the `tritonserver` of the wheel, on which the stand-in
for the native ONNX Runtime backend serves a bundle.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient, InferenceServerException

from cytoserve import Client, ServerUnreachable
from export.repository.bundle import write_bundle
from server.installation import find_installation, lay_out, worker_environment
from training.rendered import RenderSettings, render_frame

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "docker/gpu/serve.py"
BASE_IMAGE = ROOT / "docker/gpu/base_image.py"
KEY = "0123456789abcdef0123456789abcdef"
START_S = 120
FRAME = render_frame(RenderSettings(height=300, width=400, cells=8), 3)[0]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def serve(folder: Path, *options: str | Path) -> subprocess.Popen[str]:
    """Start the script as the image does, with the wheel's `tritonserver` on the path."""
    installation = find_installation()
    programs = folder / "bin"
    programs.mkdir()
    (programs / "tritonserver").symlink_to(installation.tritonserver)
    environment = worker_environment(installation, os.environ)
    path = f"{programs}{os.pathsep}{environment['PATH']}"
    imports = os.pathsep.join([str(ROOT / "client"), str(ROOT), environment["PYTHONPATH"]])
    return subprocess.Popen(
        [sys.executable, str(SERVE), *map(str, options)],
        env={**environment, "PATH": path, "PYTHONPATH": imports},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def served(
    exported_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """The server's process, its gRPC port and its port of metrics."""
    folder = tmp_path_factory.mktemp("served")
    write_bundle(exported_repository, folder / "bundle", ["yolo"])
    key = folder / "api-key"
    key.write_text(KEY)
    key.chmod(0o400)
    installation = find_installation()
    port, metrics = free_port(), free_port()
    process = serve(
        folder,
        *("--model-repository", folder / "bundle", "--variant", "default"),
        *("--grpc-port", str(port), "--metrics-port", str(metrics), "--api-key-file", key, "--"),
        f"--backend-directory={lay_out(folder / 'backends', installation)}",
        f"--cache-directory={installation.caches}",
    )
    try:
        last = time.monotonic() + START_S
        while True:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < last
            try:
                with Client(f"127.0.0.1:{port}", api_key=KEY, timeout=1) as client:
                    client.server_info()
                break
            except ServerUnreachable:
                time.sleep(0.2)
        yield process, port, metrics
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.communicate()


def test_it_serves_a_bundle_to_callers_with_the_key(served, server):
    _, port, metrics = served
    with (
        Client(f"127.0.0.1:{port}", api_key=KEY, timeout=60) as client,
        Client(server.url, timeout=60) as other,
    ):
        found = client.segment(FRAME, "yolo", score_threshold=0.5)
        assert len(found) == len(other.segment(FRAME, "yolo", score_threshold=0.5)) > 0
    with DIRECT.open(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        assert 'nv_inference_request_success{model="yolo",version="1"}' in answer.read().decode()


def test_a_caller_without_the_key_can_ask_for_health_alone(served):
    _, port, _ = served
    with InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_server_metadata()


def test_nobody_can_load_a_model(served):
    """Whoever can, may run code in the container."""
    _, port, _ = served
    header = {"triton-grpc-protocol-cytoserve-api-key": KEY}
    with (
        InferenceServerClient(f"127.0.0.1:{port}") as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.load_model("yolo", headers=header)


def test_it_becomes_the_server_and_ends_with_it(served):
    process, _, _ = served
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert command[0] == b"tritonserver"
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told


REFUSED = {
    "other machines, no TLS, no key": (["--listen", "0.0.0.0"], "needs TLS"),
    "a key that is not there": (["--api-key-file", "/nowhere"], "/nowhere cannot be read"),
    "no such folder": (["--model-repository", "/nowhere"], "does not exist"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_it_refuses(options, reason, tmp_path):
    repository = [] if "--model-repository" in options else ["--model-repository", tmp_path]
    process = serve(tmp_path, *repository, "--variant", "default", *options)
    told, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert reason in told


def test_plans_that_do_not_fit_are_refused_before_the_server_starts(tmp_path):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("needs a machine without a GPU")
    process = serve(tmp_path, "--model-repository", tmp_path)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No GPU here" in told
    assert "tritonserver.cc" not in told


# Finds no module of a package that the lock lacks, as in the image.
ONLY_LOCKED = """
import importlib.metadata, re, runpy, sys
locked = set(re.findall(r"^([a-z0-9._-]+)==", open(sys.argv[1]).read(), re.MULTILINE))
locked |= {"setuptools", "cytoserve"}
plain = lambda name: re.sub("[-_.]+", "-", name).lower()
there = importlib.metadata.packages_distributions()
hidden = {name for name, of in there.items() if not locked & {plain(each) for each in of}}
class Hidden:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is not in the lock")
sys.meta_path.insert(0, Hidden)
assert {"torch", "torchvision", "ultralytics"} <= hidden
sys.argv = sys.argv[2:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

RUN_IN_IMAGE = {
    "makes plans": (["export", "tensorrt"], "No GPU here"),
    "checks plans": (["export", "tensorrt", "--fits"], "No GPU here"),
    "serves": ([str(SERVE), "--help"], "Serve a bundle on NVIDIA's Triton"),
}


@pytest.mark.parametrize(("command", "told"), RUN_IN_IMAGE.values(), ids=RUN_IN_IMAGE)
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="needs a machine without a GPU")
def test_the_lock_has_all_that_the_image_runs(command, told, source_repository):
    more = ["--model-repository", source_repository] if command[0] == "export" else []
    lock = ROOT / "docker/gpu/requirements.lock"
    done = subprocess.run(
        [sys.executable, "-c", ONLY_LOCKED, str(lock), *command, *map(str, more)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'client'}{os.pathsep}{ROOT}"},
    )
    assert told in done.stdout + done.stderr


def test_the_lock_has_what_proves_a_plan(docker):
    """It is imported only beside a GPU."""
    source = (ROOT / "export/graphs/tensorrt_engine.py").read_text()
    assert "polygraphy" in source
    assert "\npolygraphy==" in (docker / "gpu" / "requirements.lock").read_text()


def load_base_image():
    spec = importlib.util.spec_from_file_location("base_image", BASE_IMAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("missing", ["onnxruntime", "python", "tensorrt"])
def test_a_base_image_that_lacks_a_backend_ends_the_build(missing, tmp_path):
    checks = load_base_image()
    for name in set(checks.NEEDED) - {missing}:
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit, match=f"no {tmp_path / missing}\\. Build on NVIDIA's"):
        checks.backends(tmp_path)
    (tmp_path / missing).mkdir()
    checks.backends(tmp_path)


def test_a_base_image_without_tensorrt_ends_the_build():
    with pytest.raises(SystemExit, match=r"no TensorRT of 10\.13 or later"):
        load_base_image().tensorrt_version(("libnvinfer.so.none",))


def test_tensorrts_version_is_read_from_its_library():
    """From its small library for finished plans, a wheel of 44 MB."""
    libraries = pytest.importorskip(
        "tensorrt_lean_libs", reason="needs the Python package tensorrt-lean-cu13-libs"
    )
    [file] = Path(libraries.__path__[0]).glob("libnvinfer_lean.so.*")
    version = load_base_image().tensorrt_version((str(file),))
    [about] = Path(libraries.__path__[0]).parent.glob("tensorrt_lean_cu1?_libs-*.dist-info")
    assert about.name.split("-")[1].startswith(f"{version}.")
