"""The README's own lines, run as they stand."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

import cytoserve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_blocks_run_one_after_the_other(monkeypatch, capsys):
    empty = np.zeros((2048, 2048), np.uint8)
    fake = cytoserve.FakeServer(
        cytoserve.cells_from_labels(empty, np.zeros(0, int), ("RBC",)),
        foreground=cytoserve.Foreground.from_probability(empty, class_name="glioma"),
    )
    real = cytoserve.Client
    monkeypatch.setattr(cytoserve, "Client", lambda url: real(url, transport=fake))
    namespace = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert capsys.readouterr().out.strip()
    assert namespace["found"].confluency == 0


def commands() -> list[str]:
    """Every `python -m` and `cytoserve` command of the README, without its values."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("python -m", "cytoserve"))]


@pytest.mark.parametrize("line", commands())
def test_options_of_the_readme_exist(line):
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


@pytest.mark.parametrize("name", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_links_lead_somewhere(name):
    assert (ROOT / name).exists()
