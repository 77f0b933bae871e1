"""The committed run of study S4 on real images: its settings, and that its commands are real."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.t98g_instances.__main__ import FIELDS, SETTINGS, main
from training.maskrcnn.settings import PRESETS as MASKRCNN_PRESETS
from training.run.command_line import choose_settings
from training.run.stages import Stages
from training.sam.settings import PRESETS as SAM_PRESETS
from training.sam.settings import TINY

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "presets"),
    [
        pytest.param("maskrcnn", MASKRCNN_PRESETS, id="Mask R-CNN"),
        pytest.param("sam", SAM_PRESETS, id="SAM"),
    ],
)
def test_the_settings_are_valid(pytestconfig, name, presets):
    file = pytestconfig.rootpath / SETTINGS / f"{name}.yaml"
    settings = choose_settings(presets, "demo", file)
    assert settings.model_dump() != presets["demo"].model_dump()  # the file says something


def test_sam_is_small_enough_for_a_processor(pytestconfig):
    file = pytestconfig.rootpath / SETTINGS / "sam.yaml"
    settings = choose_settings(SAM_PRESETS, "demo", file)
    assert (settings.size, settings.train_encoder) == (TINY, True)


@pytest.fixture
def commands(tmp_path, monkeypatch, pytestconfig) -> list[list[str]]:
    """Command lines of the run's stages, none of which is run."""
    monkeypatch.chdir(pytestconfig.rootpath)
    for folder in ("data/images", "results", "out/maskrcnn", "out/sam", "out/model_repository"):
        (tmp_path / folder).mkdir(parents=True)
    lines: list[list[str]] = []

    def announce(stages, title, *words, resume=False):
        lines.append([*map(str, words)])
        stages.done.append((" ".join(lines[-1]), 12.0))

    monkeypatch.setattr(Stages, "run", announce)
    (tmp_path / "out/instances.md").write_text("the tables\n")
    words = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--resume")
    done = CliRunner().invoke(main, [*map(str, words), "--results", str(tmp_path / "results")])
    assert done.exit_code == 0, (done.output, done.exception)
    return lines


def test_every_stage_is_a_command_with_these_options(commands):
    for python, m, module, *words in commands:
        assert (python, m) == ("python", "-m")
        is_package = (ROOT / module.replace(".", "/") / "__main__.py").is_file()
        command = importlib.import_module(f"{module}.__main__" if is_package else module).main
        if isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        with command.make_context(module, words):  # refuses what the command does not know
            pass


def test_fields_are_split_as_for_the_u_net_and_tested_apart(commands):
    named = {
        module: [Path(word.partition("@")[2]) for word in words if "@" in word]
        for _, _, module, *words in commands
    }
    training = [FIELDS / "train.txt", FIELDS / "validation.txt"]
    assert named["training.maskrcnn"] == named["training.sam"] == training
    assert named["benchmarks.instances"] == [FIELDS / "test.txt"]


def test_the_page_has_tables_and_commands(commands, tmp_path):
    page = (tmp_path / "results/t98g-instances.md").read_text()
    assert "the tables" in page
    for words in commands:
        assert f"| `{' '.join(words)}` | 12 |" in page
