"""The README's and the documentation's own lines, run as they stand."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import cytoserve

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page].read_text(), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_blocks_run_one_after_the_other(page, monkeypatch, capsys):
    empty = np.zeros((2048, 2048), np.uint8)
    fake = cytoserve.FakeServer(
        cytoserve.cells_from_labels(empty, np.zeros(0, int), ("RBC",)),
        foreground=cytoserve.Foreground.from_probability(empty, class_name="glioma"),
    )
    real = cytoserve.Client
    monkeypatch.setattr(cytoserve, "Client", lambda url: real(url, transport=fake))
    namespace = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), namespace)
    shown = capsys.readouterr().out
    assert "print(" not in "".join(blocks(page, "python")) or shown.strip()
    if "found" in namespace:
        assert namespace["found"].confluency == 0


def commands() -> list[str]:
    """Every `python -m` and `cytoserve` command of all pages, without its values."""
    found = []
    for page in PAGES:
        lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
        parts = [part.strip() for line in lines for part in line.split("&&")]
        found += [part for part in parts if part.startswith(("python -m", "cytoserve"))]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", commands())
def test_options_of_the_commands_exist(line):
    words = shlex.split(line, comments=True)
    if words[0] == "cytoserve":
        command, words = importlib.import_module("cytoserve.cli").main, words[1:]
    else:
        module = words[2]
        if (ROOT / module.replace(".", "/") / "__main__.py").is_file():
            module += ".__main__"
        command, words = importlib.import_module(module).main, words[3:]
    if isinstance(command, click.Group):
        command = command.commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def links() -> list[tuple[str, str]]:
    return [
        (page, link)
        for page, path in PAGES.items()
        for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", path.read_text())
    ]


@pytest.mark.parametrize(("page", "link"), links())
def test_links_lead_somewhere(page, link):
    assert (PAGES[page].parent / link).exists()


@pytest.mark.parametrize(
    "name",
    sorted(
        {name for p in PAGES.values() for name in re.findall(r"`make ([a-z-]+)", p.read_text())}
    ),
)
def test_targets_of_make_exist(name):
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "contract" / "index.html").is_file()


def test_the_changelog_tells_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == cytoserve.__version__
