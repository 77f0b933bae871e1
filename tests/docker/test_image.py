"""The image for processors, really built and run: read-only, without capabilities, as user 1000.

No Docker daemon is needed: mmdebstrap makes the base image, buildah builds, podman and crun run.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cytoserve import Client, ServerUnreachable
from training.rendered import RenderSettings, render_frame

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOOLS = ("mmdebstrap", "buildah", "podman", "crun", "unshare")
BASE, IMAGE = "localhost/cytoserve-test-base:bookworm", "localhost/cytoserve-test:cpu"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
START_S, MENDED_S, STOPPED_S = 300, 120, 40
FRAME = render_frame(RenderSettings(height=300, width=400, cells=8), 3)[0]

# crun refuses a machine's mixed control groups, so it sees those of version 2 alone.
IN_OWN_GROUPS = """
umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@" {more}
"""


def run(*command: str | Path, timeout: float = 1500) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def podman(*words: str | Path, timeout: float = 120, more: str = "") -> str:
    options = ("--runtime=crun", "--cgroup-manager=cgroupfs")
    inside = (
        "unshare",
        "-m",
        "--propagation=private",
        "sh",
        "-c",
        IN_OWN_GROUPS.format(more=more),
        "sh",
    )
    return run(*inside, "podman", *options, *words, timeout=timeout)


def logs(container: str) -> str:
    """Return what the container printed to either stream."""
    return podman("logs", container, more="2>&1")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and the Debian packages of {', '.join(missing or TOOLS)}")
    base = tmp_path_factory.mktemp("base") / "base.tar"
    run("mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", base)
    container = run("buildah", "from", "scratch")
    run("buildah", "add", container, base, "/")
    run("buildah", "config", "--cmd", "bash", container)
    run("buildah", "commit", "--rm", container, BASE)
    trust = []
    if CERTIFICATES.is_file():  # the machine's own authorities, if packages come by way of one
        trust = ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--env", f"PIP_CERT={CERTIFICATES}"]
    run(
        *("buildah", "bud", "--isolation=chroot", "--pull-never", "--network=host", *trust),
        *("--build-arg", f"BASE={BASE}", "--ignorefile", ROOT / ".dockerignore"),
        *("--file", ROOT / "docker/cpu/Dockerfile", "--tag", IMAGE, ROOT),
    )
    return IMAGE


@pytest.fixture(scope="module")
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def container(image: str, exported_repository: Path, port: int) -> Iterator[str]:
    """A container as `docker/compose.yaml` describes it, but on the machine's own network."""
    name = podman(
        *("run", "--detach", "--pull=never", "--cgroups=disabled", "--network=host"),
        *("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"),
        *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *("--shm-size=512m", "--tmpfs=/tmp:rw,mode=1777"),
        *("--volume", f"{exported_repository}:/models:ro", image),
        *("--pipelines=yolo", f"--grpc-port={port}"),
    )
    yield name
    podman("rm", "--force", name)


def cells(port: int, within: float) -> int:
    """Ask until an answer comes."""
    last = time.monotonic() + within
    with Client(f"127.0.0.1:{port}", timeout=30) as client:
        while True:
            try:
                return len(client.segment(FRAME, "yolo", score_threshold=0.5))
            except ServerUnreachable:
                assert time.monotonic() < last, "no answer"
                time.sleep(0.5)


def test_frames_are_answered_from_a_read_only_container(container, port, server):
    found = cells(port, START_S)
    with Client(server.url, timeout=60) as client:
        assert found == len(client.segment(FRAME, "yolo", score_threshold=0.5)) > 0


def test_it_has_no_rights(container):
    status = podman("exec", container, "cat", "/proc/1/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1000"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    with pytest.raises(AssertionError, match="Read-only file system"):
        podman("exec", container, "touch", "/opt/app/mine")


def test_a_killed_worker_is_mended(container, port):
    before = logs(container)
    [worker] = [
        process
        for process in psutil.process_iter()
        if process.name().startswith("triton_python")
        and "yolo_targets" in " ".join(process.cmdline())
        and process.uids().real == 1000
    ][:1]
    worker.send_signal(signal.SIGKILL)
    last = time.monotonic() + MENDED_S
    while "Serving again" not in logs(container).removeprefix(before):
        assert time.monotonic() < last, logs(container)[-2000:]
        time.sleep(1)
    assert cells(port, MENDED_S) > 0


def test_the_gpu_image_is_not_built_on_a_base_without_triton(image):
    """NVIDIA's image cannot be had here; what can be tried is that another one does not pass."""
    with pytest.raises(AssertionError, match=r"no /opt/tritonserver/backends/tensorrt\. Build on"):
        run(
            *("buildah", "bud", "--isolation=chroot", "--pull-never", "--network=host"),
            *("--build-arg", f"BASE={image}", "--ignorefile", ROOT / ".dockerignore"),
            *("--file", ROOT / "docker/gpu/Dockerfile", "--tag", f"{image}-gpu", ROOT),
        )


def test_it_stops_by_itself_when_told(container):
    begun = time.monotonic()
    podman("stop", "--time", f"{STOPPED_S}", container, timeout=STOPPED_S + 30)
    assert time.monotonic() - begun < STOPPED_S, "it had to be killed"
    assert podman("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
