"""The embedded Triton is found, or what is missing is said, and workers get their bounds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.errors import InstallationError
from server.installation import (
    available_cores,
    check,
    find_installation,
    system_program,
    worker_environment,
)


def test_every_part_is_there() -> None:
    installation = find_installation()
    assert os.access(installation.tritonserver, os.X_OK)
    assert os.access(installation.stub, os.X_OK)
    assert (installation.python_backend / "libtriton_python.so").exists()
    assert all(folder.is_dir() for folder in installation.library_path)


def test_a_python_without_a_stub() -> None:
    installation = find_installation()
    stub = installation.stub.parents[1] / "2.7" / installation.stub.name
    with pytest.raises(InstallationError, match=r"no build for Python .*it has builds for 3\.10"):
        check(replace(installation, stub=stub))


def test_a_numpy_that_workers_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    installation = find_installation()
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(InstallationError, match="Install numpy<2"):
        check(installation)


def test_a_missing_program() -> None:
    with pytest.raises(InstallationError, match="Install the package util-linux"):
        system_program("no-such-program", package="util-linux")


AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        pytest.param(None, AFFINITY, id="no cgroup"),
        pytest.param("max 100000", AFFINITY, id="no quota"),
        pytest.param("100000 100000", 1, id="one core"),
        pytest.param("50000 100000", 1, id="half a core"),
        pytest.param("99900000 100000", AFFINITY, id="more than there are"),
    ],
)
def test_available_cores(tmp_path: Path, quota: str | None, cores: int) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    assert available_cores(file) == cores


def test_a_bound_of_the_users_own_is_kept() -> None:
    environment = worker_environment(find_installation(), {"OMP_NUM_THREADS": "7"})
    assert environment["OMP_NUM_THREADS"] == "7"


def test_search_paths_of_the_users_own_come_last_and_none_is_empty() -> None:
    environment = worker_environment(find_installation(), {"LD_LIBRARY_PATH": "/opt/mine"})
    assert environment["LD_LIBRARY_PATH"].split(":")[-1] == "/opt/mine"
    for name in ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH"):
        assert all(environment[name].split(":"))
