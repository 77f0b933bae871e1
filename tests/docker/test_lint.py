"""The Dockerfiles by hadolint, and what it cannot know: packages come by a lock alone."""

from __future__ import annotations

import re

import pytest

FILES = ("cpu/Dockerfile", "gpu/Dockerfile")
# The base image decides on the versions of Debian's packages, and is itself named by a digest.
IGNORED = "DL3008"


@pytest.mark.parametrize("file", FILES)
def test_hadolint_finds_nothing(file, docker, tool):
    done = tool("hadolint", "--ignore", IGNORED, docker / file)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path, tool):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp && apt-get install python3\n")
    found = tool("hadolint", "--ignore", IGNORED, bad)
    assert found.returncode == 1
    assert {"DL3007", "DL3003"} <= set(re.findall(r"DL\d+", found.stdout))


@pytest.mark.parametrize("file", FILES)
def test_packages_come_by_a_lock_with_hashes(file, docker):
    text = (docker / file).read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install[^&|]*", text)
    assert installs
    for each in installs:
        assert {"--require-hashes", "--no-deps", "--requirement"} <= set(each.split())


@pytest.mark.parametrize(
    ("lock", "own"),
    [
        pytest.param("cpu/requirements.lock", set(), id="cpu"),
        # Runs plans, for which the project's other rooms have no use.
        pytest.param("gpu/requirements.lock", {"polygraphy"}, id="gpu"),
    ],
)
def test_the_lock_takes_its_versions_from_the_projects(lock, own, docker):
    def pins(text: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9._-]+==[^ ;\\]+", text, re.MULTILINE))

    image = pins((docker / lock).read_text())
    assert image
    more = image - pins((docker.parent / "requirements.lock").read_text())
    assert {pin.partition("==")[0] for pin in more} == own


@pytest.mark.parametrize("file", FILES)
def test_it_runs_as_a_user_without_rights(file, docker):
    users = re.findall(r"^USER (.+)$", (docker / file).read_text(), re.MULTILINE)
    assert users[-1] == "1000:1000"


def test_the_gpu_image_has_a_lock_for_each_tensorrt(docker):
    """Its name is the version as `base_image.py` reads it from the library."""
    files = sorted((docker / "gpu" / "tensorrt").glob("*.lock"))
    assert files
    for file in files:
        [pin] = re.findall(r"^tensorrt-cu13-bindings==(\S+)", file.read_text(), re.MULTILINE)
        assert pin.startswith(f"{file.stem}.")
