"""What is installed: one light distribution, whose needs are wheels everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from 3.11 on")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def uv():
    program = shutil.which("uv") or shutil.which(ROOT / ".uv/bin/uv")
    if program is None:
        pytest.skip("uv is not on the PATH and not in .uv; `make test` provides it")
    return program


@pytest.mark.parametrize("platform", ["windows", "macos", "linux"])
@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_the_client_needs_only_wheels(uv, platform, python, tmp_path):
    needs = tmp_path / "requirements.in"
    needs.write_text("\n".join(PROJECT["project"]["dependencies"]))
    done = subprocess.run(
        [
            *(uv, "pip", "compile", "--no-config", "--only-binary", ":all:", "--quiet"),
            # Without any build the interpreter does not matter; that version would be downloaded.
            *("--python-platform", platform, "--python-version", python, "--no-python-downloads"),
            needs,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = set(re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE))
    assert {"numpy", "tritonclient", "opencv-python-headless"} <= names
    assert not names & {"torch", "onnxruntime", "ultralytics", "nvidia-pytriton"}


def test_the_wheel_holds_the_client_alone(uv, tmp_path):
    subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packages = {name.partition("/")[0] for name in archive.namelist()}
        assert "cytoserve/py.typed" in archive.namelist()
    assert packages == {"cytoserve", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert wheel.name.endswith("py3-none-any.whl")


def test_the_lock_has_exact_versions_hashes_and_no_address():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    packages = [line for line in lines if re.match(r"^[a-z0-9]", line)]
    assert len(packages) > 50
    assert all("==" in line for line in packages)
    assert sum("--hash=sha256:" in line for line in lines) >= len(packages)
    assert not [line for line in lines if "://" in line]


def test_every_locked_group_is_a_room():
    rooms = {"server", "training", "export", "benchmarks", "dev"}
    assert set(PROJECT["dependency-groups"]) == rooms
    assert {
        line for line in (ROOT / "Makefile").read_text().splitlines() if "GROUPS :=" in line
    } == {"GROUPS := server training export benchmarks dev"}


def test_the_client_does_without_the_rooms_packages():
    heavy = {"torch", "onnxruntime", "ultralytics", "onnx", "nvidia-pytriton", "psutil"}
    needs = {re.split(r"[\[<>=!~ ]", need)[0] for need in PROJECT["project"]["dependencies"]}
    assert not needs & heavy
